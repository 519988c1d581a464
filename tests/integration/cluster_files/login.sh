# First process of the cluster's namespace: login host, controller and accounting. Arguments: folder, address.
set -eu
folder=$1 address=$2
hostname login
for file in hosts nsswitch.conf resolv.conf; do mount --bind "$folder/$file" "/etc/$file"; done
ip link set lo up
ip link add bridge0 type bridge
ip addr add "$address/24" dev bridge0
ip link set bridge0 up
touch "$folder/run/namespace"
# bash reaps the processes that it inherits.
while :; do sleep 60 & wait $!; done
