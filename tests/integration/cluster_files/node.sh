# First process of a node's namespace: a node is up as long as it runs. Arguments: name, address, folder.
set -eu
name=$1 address=$2 folder=$3
hostname "$name"
mkdir -p "$folder/spool-$name" "$folder/tmp-$name"
mv "$folder/run/$name.pid.new" "$folder/run/$name.pid"
ip link set lo up
until ip link show eth0 > /dev/null 2>&1; do sleep 0.05; done
ip addr add "$address/24" dev eth0
ip link set eth0 up
slurmd -D -N "$name" -f "$folder/slurm.conf" > "$folder/log/slurmd-$name.out" 2>&1 &
wait
