#!/bin/bash
#SBATCH --job-name="rfm_retinanet_HASH"
#SBATCH --ntasks=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=28
#SBATCH --output=rfm_job.out
#SBATCH --error=rfm_job.err
#SBATCH --time=2:45:0
#SBATCH --nodes=1
#SBATCH --partition=FILL_IN
#SBATCH --gres=gpu:8
#SBATCH --no-requeue
# Modules and variables of the partition, from site.py.
export OMP_NUM_THREADS=1
export NCCL_DEBUG=WARN
export NCCL_IB_HCA=FILL_IN
export NCCL_NVLS_ENABLE=1

# Ranks meet on the first node of the job, at a port of its own below the ephemeral ones (32768 on).
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))

# Which image this is goes into run.json: its path, and the checksum of what really runs.
export MLPERF_DET_IMAGE=/FILL_IN/mlperf-det.sqsh
export MLPERF_DET_IMAGE_DIGEST="sha256:$(sha256sum < /FILL_IN/mlperf-det.sqsh | cut -d " " -f 1)"

# 5 run(s), each in its own run folder and with its own seed.
exit_status=0
for experiment in 0 1 2 3 4; do
# What ended before the job was requeued stays as it is.
ended=$(cat "run_$experiment.exit" 2>/dev/null)
case "$ended" in 0|3|4)
    [ "$exit_status" -ne 0 ] || exit_status=$ended; continue ;;
esac
# The log says that caches were cleared only where they were.
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 sh -c 'sync && sudo -n /sbin/sysctl vm.drop_caches=3' \
    && caches=--cache-cleared || caches=
before=$(cksum "run_$experiment/run.json" 2>/dev/null)

# Train. Where there are several ranks, each compares its place with what this job was written for.
srun --cpus-per-task=28 --mpi=none --kill-on-bad-exit=0 --wait=120 \
    --container-image=/FILL_IN/mlperf-det.sqsh \
    --container-mounts=/FILL_IN/datasets/openimages-mlperf:/FILL_IN/datasets/openimages-mlperf:ro,/FILL_IN/backbones:/FILL_IN/backbones:ro,/stage/dgx-b200/dgx/builtin/retinanet_HASH:/rfm_workdir \
    --container-workdir=/rfm_workdir \
    --no-container-mount-home \
    --container-env=MASTER_ADDR,MASTER_PORT,MLPERF_DET_IMAGE,MLPERF_DET_IMAGE_DIGEST,NCCL_DEBUG,NCCL_IB_HCA,NCCL_NVLS_ENABLE,OMP_NUM_THREADS,SLURM_PROCID,SLURM_NTASKS,SLURM_LOCALID,SLURM_NODEID,SLURM_NNODES,SLURM_JOB_ID,SLURM_STEP_ID,SLURM_JOB_NODELIST,SLURM_STEP_NODELIST,SLURM_RESTART_COUNT,SLURM_STEP_GPUS,SLURM_JOB_GPUS,CUDA_VISIBLE_DEVICES,ROCR_VISIBLE_DEVICES \
    python3 -m mlperf_det.rfm.start_rank --nodes=1 --ranks-per-node=8 \
    --meet-at="$MASTER_ADDR:$MASTER_PORT" --bind=scheduler -- train retinanet --recipe 1x8x32 \
    --recipes recipes.yaml --data /FILL_IN/datasets/openimages-mlperf \
    --backbone /FILL_IN/backbones/resnext50_32x4d-7cdf4587.pth $caches --resume \
    --experiment="$experiment" --seed=$((1 + experiment)) --output="run_$experiment"
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
