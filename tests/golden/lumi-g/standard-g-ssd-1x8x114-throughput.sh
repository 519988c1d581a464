#!/bin/bash
#SBATCH --job-name="rfm_ssd_HASH"
#SBATCH --ntasks=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --output=rfm_job.out
#SBATCH --error=rfm_job.err
#SBATCH --time=0:30:0
#SBATCH --nodes=1
#SBATCH --partition=standard-g
#SBATCH --account=FILL_IN
#SBATCH --gpus-per-node=8
#SBATCH --no-requeue
# Modules and variables of the partition, from site.py.
export OMP_NUM_THREADS=1
export NCCL_DEBUG=WARN
export NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3
export NCCL_NET_GDR_LEVEL=PHB
export MIOPEN_USER_DB_PATH=/tmp/miopen-$SLURM_JOB_ID
export MIOPEN_CUSTOM_CACHE_DIR=/tmp/miopen-$SLURM_JOB_ID

# Ranks meet on the first node of the job, at a port of its own below the ephemeral ones (32768 on).
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))

# Which image this is goes into run.json: its path, and the checksum of what really runs.
export MLPERF_DET_IMAGE=/scratch/FILL_IN/images/mlperf-det-rocm.sif
export MLPERF_DET_IMAGE_DIGEST="sha256:$(sha256sum < /scratch/FILL_IN/images/mlperf-det-rocm.sif | cut -d " " -f 1)"

# What the job sets wins over what the image sets.
for name in MASTER_ADDR MASTER_PORT MLPERF_DET_IMAGE MLPERF_DET_IMAGE_DIGEST MIOPEN_CUSTOM_CACHE_DIR MIOPEN_USER_DB_PATH NCCL_DEBUG NCCL_NET_GDR_LEVEL NCCL_SOCKET_IFNAME OMP_NUM_THREADS; do
  [ -z "${!name+set}" ] || export "SINGULARITYENV_$name=${!name}"
done

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
srun --cpus-per-task=7 --mpi=none --kill-on-bad-exit=0 --wait=120 --cpu-bind=none singularity exec \
    -B"/scratch/FILL_IN/datasets/coco2017:/scratch/FILL_IN/datasets/coco2017:ro" \
    -B"/scratch/FILL_IN/backbones:/scratch/FILL_IN/backbones:ro" \
    -B"/stage/lumi-g/standard-g/builtin/ssd_HASH:/rfm_workdir" --pwd /rfm_workdir \
    --no-home --rocm /scratch/FILL_IN/images/mlperf-det-rocm.sif \
    python3 -m mlperf_det.rfm.start_rank --nodes=1 --ranks-per-node=8 \
    --meet-at="$MASTER_ADDR:$MASTER_PORT" --bind=numa -- train ssd --recipe 1x8x114-throughput \
    --recipes recipes.yaml --data /scratch/FILL_IN/datasets/coco2017 \
    --backbone /scratch/FILL_IN/backbones/resnet34-333f7ec4.pth --resume --experiment="$experiment" \
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
