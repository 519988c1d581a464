#!/bin/bash
#SBATCH --job-name="rfm_ssd_HASH"
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
export OMP_NUM_THREADS=1
export NCCL_DEBUG=WARN
export NCCL_IB_HCA=FILL_IN
export NCCL_NVLS_ENABLE=1
# Which image this is goes into run.json: its path, and the checksum of what really runs.
export MLPERF_DET_IMAGE=/shared/images/mlperf-det.sqsh
export MLPERF_DET_IMAGE_DIGEST="sha256:$(sha256sum < /shared/images/mlperf-det.sqsh | cut -d " " -f 1)"
# 1 run(s), each in its own run folder and with its own seed.
exit_status=0
for experiment in 0; do
# What was finished before the job was requeued stays as it is.
[ "$(cat "run_$experiment.exit" 2>/dev/null)" = 0 ] && continue
# The log says that caches were cleared only where they were.
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 sudo /sbin/sysctl vm.drop_caches=3 && caches=--cache-cleared || caches=
srun --cpus-per-task=224 --mpi=none --kill-on-bad-exit=0 --wait=120 --cpu-bind=none \
    --container-image=/shared/images/mlperf-det.sqsh \
    --container-mounts=/shared/mlperf-det/datasets/generated-coco-KEY:/shared/mlperf-det/datasets/generated-coco-KEY:ro,/stage/dgx-h100/dgx/builtin/ssd_HASH:/rfm_workdir \
    --container-workdir=/rfm_workdir \
    --no-container-mount-home \
    --container-env=MASTER_ADDR,MASTER_PORT,MLPERF_DET_IMAGE,MLPERF_DET_IMAGE_DIGEST,NCCL_DEBUG,NCCL_IB_HCA,NCCL_NVLS_ENABLE,OMP_NUM_THREADS,SLURM_PROCID,SLURM_NTASKS,SLURM_LOCALID,SLURM_NODEID,SLURM_NNODES,SLURM_JOB_ID,SLURM_STEP_ID,SLURM_JOB_NODELIST,SLURM_STEP_NODELIST,SLURM_RESTART_COUNT,SLURM_STEP_GPUS,SLURM_JOB_GPUS,CUDA_VISIBLE_DEVICES,ROCR_VISIBLE_DEVICES \
    python3 -m torch.distributed.run --nproc-per-node=1 --standalone -m mlperf_det.rfm.start_rank \
    --nodes=1 --ranks-per-node=1 --bind=numa -- train ssd --recipe smoke --recipes recipes.yaml --data \
    /shared/mlperf-det/datasets/generated-coco-KEY $caches --resume --experiment="$experiment" \
    --seed=$((1 + experiment)) --output="run_$experiment"
# Remember the first failure: later commands must not hide it.
status=$?; [ "${exit_status:-0}" -ne 0 ] || exit_status=$status
echo "$status" > "run_$experiment.exit"
done
echo "$exit_status" > job_exit_status
exit "$exit_status"
