#!/bin/bash
#SBATCH --job-name="rfm_retinanet_HASH"
#SBATCH --ntasks=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=224
#SBATCH --output=rfm_job.out
#SBATCH --error=rfm_job.err
#SBATCH --time=0:15:0
#SBATCH --nodes=1
#SBATCH --partition=FILL_IN
#SBATCH --gres=gpu:1
#SBATCH --no-requeue
# Modules and variables of the partition, from site.py.
export OMP_NUM_THREADS=1
export NCCL_DEBUG=WARN
export NCCL_IB_HCA=FILL_IN
export NCCL_NVLS_ENABLE=1

# Which image this is goes into run.json: its path, and the checksum of what really runs.
export MLPERF_DET_IMAGE=/FILL_IN/mlperf-det.sqsh
export MLPERF_DET_IMAGE_DIGEST="sha256:$(sha256sum < /FILL_IN/mlperf-det.sqsh | cut -d " " -f 1)"

# 1 run(s), each in its own run folder and with its own seed.
exit_status=0
for experiment in 0; do
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
srun --cpus-per-task=224 --mpi=none --kill-on-bad-exit=0 --wait=120 \
    --container-image=/FILL_IN/mlperf-det.sqsh \
    --container-mounts=/FILL_IN/mlperf-det/datasets/generated-openimages-KEY:/FILL_IN/mlperf-det/datasets/generated-openimages-KEY:ro,/stage/dgx-b200/dgx/builtin/retinanet_HASH:/rfm_workdir \
    --container-workdir=/rfm_workdir \
    --no-container-mount-home \
    --container-env=MASTER_ADDR,MASTER_PORT,MLPERF_DET_IMAGE,MLPERF_DET_IMAGE_DIGEST,NCCL_DEBUG,NCCL_IB_HCA,NCCL_NVLS_ENABLE,OMP_NUM_THREADS,SLURM_PROCID,SLURM_NTASKS,SLURM_LOCALID,SLURM_NODEID,SLURM_NNODES,SLURM_JOB_ID,SLURM_STEP_ID,SLURM_JOB_NODELIST,SLURM_STEP_NODELIST,SLURM_RESTART_COUNT,SLURM_STEP_GPUS,SLURM_JOB_GPUS,CUDA_VISIBLE_DEVICES,ROCR_VISIBLE_DEVICES \
    python3 -m mlperf_det train retinanet --recipe smoke --recipes recipes.yaml \
    --data /FILL_IN/mlperf-det/datasets/generated-openimages-KEY $caches --resume \
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
