#!/usr/bin/env bash
# Trains on a SLURM cluster, one process per GPU.
#
#   sbatch --nodes=2 launch/slurm_gpu.sh configs/clip.py --workdir=/shared/run --config.num_steps=100
#   DRY_RUN=1 launch/slurm_gpu.sh configs/clip.py --workdir=/shared/run    # print, run nothing
#
# Submit it from the repository root. --workdir must be on a disk that every node sees. A job that
# is preempted, or loses a process, is queued again and resumes from its last checkpoint.
#
#   CLIPJAX_VENV=    environment with clipjax[cuda12] or [cuda13] (default .venv if it is there,
#                    else the python3 that is on the PATH)
#SBATCH --job-name=clipjax
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append   # the log of a job that starts again goes on
#SBATCH --signal=TERM@120    # seconds of warning before the time is up, for a last checkpoint
set -euo pipefail

usage="usage: slurm_gpu.sh CONFIG.py --workdir=DIR [--config.FIELD=VALUE ...]"
case ${1:-} in
  -h | --help)
    sed -n '2,${/^#\( \|$\)/!q; s/^# \{0,1\}//; p}' "$0"
    exit 0
    ;;
  "" | -*)
    echo "$usage" >&2
    exit 2
    ;;
esac
config=$1
shift
# FILE.py:ARGUMENT names a variant.
[[ -f ${config%%:*} ]] || { echo "slurm_gpu.sh: no such config: $config" >&2 && exit 2; }
case " $* " in
  *" --workdir="* | *" --workdir "*) ;;
  *) echo "slurm_gpu.sh: no --workdir. $usage" >&2 && exit 2 ;;
esac

# JAX takes 75% of each GPU at start by default; a training job owns its GPUs.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}

python=${CLIPJAX_VENV:-.venv}/bin/python
[[ -x $python ]] || python=python3
command=("$python" -m clipjax.cli.train "--config=$config")
[[ ${SLURM_NTASKS:-1} -le 1 ]] || command+=(--coordinator=auto)
command+=("$@")
# A process that fails ends the others by itself, so that they can save; srun only sweeps up.
[[ -z ${SLURM_JOB_ID:-} ]] || command=(srun --kill-on-bad-exit=0 --wait=120 "${command[@]}")

echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), job ${SLURM_JOB_ID:-none}"
printf '%q ' "${command[@]}"
printf '\n'
[[ ${DRY_RUN:-0} == 0 ]] || exit 0
status=0
"${command[@]}" || status=$?
# 75 (EX_TEMPFAIL) means: saved, run me again. A job that ends with 0 is never queued again.
if [[ $status -eq 75 && -n ${SLURM_JOB_ID:-} ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
