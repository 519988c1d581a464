#!/bin/bash
export OMP_NUM_THREADS=1
# Which image this is goes into run.json: its path, and the checksum of what really runs.
export MLPERF_DET_IMAGE=mlperf-det:latest
export MLPERF_DET_IMAGE_DIGEST="$(docker image inspect --format "{{.Id}}" mlperf-det:latest)"
# 1 run(s), each in its own run folder and with its own seed.
exit_status=0
for experiment in 0; do
# What was finished before the job was requeued stays as it is.
[ "$(cat "run_$experiment.exit" 2>/dev/null)" = 0 ] && continue
docker run --rm -v "/data/mlperf-det/datasets/generated-coco-KEY":"/data/mlperf-det/datasets/generated-coco-KEY:ro" -v "/stage/primergy-gx2460/docker/builtin/ssd_HASH":"/rfm_workdir" -w /rfm_workdir --network=host --ipc=host --ulimit=memlock=-1 --ulimit=stack=67108864 --init --user="$(id -u):$(id -g)" --gpus=all --env=MASTER_ADDR --env=MASTER_PORT --env=MLPERF_DET_IMAGE --env=MLPERF_DET_IMAGE_DIGEST --env=OMP_NUM_THREADS --env=SLURM_PROCID --env=SLURM_NTASKS --env=SLURM_LOCALID --env=SLURM_NODEID --env=SLURM_NNODES --env=SLURM_JOB_ID --env=SLURM_STEP_ID --env=SLURM_JOB_NODELIST --env=SLURM_STEP_NODELIST --env=SLURM_RESTART_COUNT --env=SLURM_STEP_GPUS --env=SLURM_JOB_GPUS --env=CUDA_VISIBLE_DEVICES --env=ROCR_VISIBLE_DEVICES mlperf-det:latest \
    python3 -m mlperf_det train ssd --recipe smoke --recipes recipes.yaml --data \
    /data/mlperf-det/datasets/generated-coco-KEY --experiment="$experiment" \
    --seed=$((1 + experiment)) --output="run_$experiment"
# Remember the first failure: later commands must not hide it.
status=$?; [ "${exit_status:-0}" -ne 0 ] || exit_status=$status
echo "$status" > "run_$experiment.exit"
done
echo "$exit_status" > job_exit_status
exit "$exit_status"
