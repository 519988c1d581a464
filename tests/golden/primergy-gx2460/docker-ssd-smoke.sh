#!/bin/bash
export OMP_NUM_THREADS=1
export NCCL_DEBUG=WARN

# Which image this is goes into run.json: its path, and the checksum of what really runs.
export MLPERF_DET_IMAGE=mlperf-det:latest
export MLPERF_DET_IMAGE_DIGEST="$(docker image inspect --format "{{.Id}}" mlperf-det:latest)"

# 1 run(s), each in its own run folder and with its own seed.
exit_status=0
for experiment in 0; do
# What ended before the job was requeued stays as it is.
ended=$(cat "run_$experiment.exit" 2>/dev/null)
case "$ended" in 0|3|4)
    [ "$exit_status" -ne 0 ] || exit_status=$ended; continue ;;
esac
before=$(cksum "run_$experiment/run.json" 2>/dev/null)

# Train. Where there are several ranks, each compares its place with what this job was written for.
docker run --rm \
    -v "/FILL_IN/mlperf-det/datasets/generated-coco-KEY":"/FILL_IN/mlperf-det/datasets/generated-coco-KEY:ro" \
    -v "/stage/primergy-gx2460/docker/builtin/ssd_HASH":"/rfm_workdir" -w /rfm_workdir \
    --network=host --ipc=host --ulimit=memlock=-1 --ulimit=stack=67108864 --cap-add=SYS_NICE --init \
    --user="$(id -u):$(id -g)" --env=USER=mlperf-det --env=HOME=/tmp --gpus=all --env=MASTER_ADDR \
    --env=MASTER_PORT --env=MLPERF_DET_IMAGE --env=MLPERF_DET_IMAGE_DIGEST --env=NCCL_DEBUG \
    --env=OMP_NUM_THREADS --env=SLURM_PROCID --env=SLURM_NTASKS --env=SLURM_LOCALID --env=SLURM_NODEID \
    --env=SLURM_NNODES --env=SLURM_JOB_ID --env=SLURM_STEP_ID --env=SLURM_JOB_NODELIST \
    --env=SLURM_STEP_NODELIST --env=SLURM_RESTART_COUNT --env=SLURM_STEP_GPUS --env=SLURM_JOB_GPUS \
    --env=CUDA_VISIBLE_DEVICES --env=ROCR_VISIBLE_DEVICES \
    mlperf-det:latest \
    python3 -m mlperf_det train ssd --recipe smoke --recipes recipes.yaml \
    --data /FILL_IN/mlperf-det/datasets/generated-coco-KEY --experiment="$experiment" \
    --seed=$((1 + experiment)) --output="run_$experiment"
status=$?
# torchrun knows 0 and 1 alone; run.json says more, unless it is still that of an earlier try.
outcome=$(sed -n 's/^  "outcome": "\([a-z]*\)".*/\1/p' "run_$experiment/run.json" 2>/dev/null)
[ "$before" != "$(cksum "run_$experiment/run.json" 2>/dev/null)" ] || outcome=
case "$status $outcome" in '1 aborted') status=3 ;; '1 diverged') status=4 ;; '1 interrupted') status=75 ;; esac
# Remember the first failure: later commands must not hide it.
[ "${exit_status:-0}" -ne 0 ] || exit_status=$status
echo "$status" > "run_$experiment.exit"
done

echo "$exit_status" > job_exit_status
exit "$exit_status"
