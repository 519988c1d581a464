#!/bin/bash
#SBATCH --job-name="rfm_ssd_HASH"
#SBATCH --ntasks=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --output=rfm_job.out
#SBATCH --error=rfm_job.err
#SBATCH --time=0:20:0
#SBATCH --nodes=1
#SBATCH --partition=gpu
#SBATCH --account=FILL_IN
#SBATCH --gres=gpu:4
#SBATCH --requeue
#SBATCH --signal=USR1@180
#SBATCH --open-mode=append
#SBATCH --exclude=lanta-g-[001,007]
module load Apptainer
export OMP_NUM_THREADS=1
export NCCL_DEBUG=WARN
export NCCL_SOCKET_IFNAME=hsn0
# Ranks meet on the first node of the job, at a port of its own below the ephemeral ones (32768 on).
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
# Which image this is goes into run.json: its path, and the checksum of what really runs.
export MLPERF_DET_IMAGE=/lustrefs/disk/project/FILL_IN/mlperf-det/images/mlperf-det-VERSION-KEY.sif
export MLPERF_DET_IMAGE_DIGEST="sha256:$(sha256sum < /lustrefs/disk/project/FILL_IN/mlperf-det/images/mlperf-det-VERSION-KEY.sif | cut -d " " -f 1)"
# What the job sets wins over what the image sets.
for name in MASTER_ADDR MASTER_PORT MLPERF_DET_IMAGE MLPERF_DET_IMAGE_DIGEST NCCL_DEBUG NCCL_SOCKET_IFNAME OMP_NUM_THREADS; do
  [ -z "${!name+set}" ] || export "APPTAINERENV_$name=${!name}"
done
# 1 run(s), each in its own run folder and with its own seed.
exit_status=0
for experiment in 0; do
# What was finished before the job was requeued stays as it is.
[ "$(cat "run_$experiment.exit" 2>/dev/null)" = 0 ] && continue
srun --cpus-per-task=16 --mpi=none --kill-on-bad-exit=0 --wait=120 --cpu-bind=none apptainer exec -B"/lustrefs/disk/project/FILL_IN/datasets/coco2017:/lustrefs/disk/project/FILL_IN/datasets/coco2017:ro" -B"/lustrefs/disk/project/FILL_IN/backbones:/lustrefs/disk/project/FILL_IN/backbones:ro" -B"/stage/lanta/gpu/builtin/ssd_HASH:/rfm_workdir" --pwd /rfm_workdir --no-home --nv /lustrefs/disk/project/FILL_IN/mlperf-det/images/mlperf-det-VERSION-KEY.sif \
    python3 -m mlperf_det.rfm.start_rank --nodes=1 --ranks-per-node=4 --bind=numa -- train ssd --recipe \
    1x4x114-throughput --recipes recipes.yaml --data /lustrefs/disk/project/FILL_IN/datasets/coco2017 \
    --backbone /lustrefs/disk/project/FILL_IN/backbones/resnet34-333f7ec4.pth --resume \
    --experiment="$experiment" --seed=$((1 + experiment)) --output="run_$experiment"
# Remember the first failure: later commands must not hide it.
status=$?; [ "${exit_status:-0}" -ne 0 ] || exit_status=$status
echo "$status" > "run_$experiment.exit"
done
# Told to stop, and a checkpoint lies ready: let Slurm start the job again.
[ "$exit_status" -ne 75 ] || scontrol requeue "$SLURM_JOB_ID"
echo "$exit_status" > job_exit_status
exit "$exit_status"
