#!/usr/bin/env bash
# Trains on a Slurm cluster, one process per GPU.
#
#   launch/slurm_gpu.sh --nodes=2 configs/clip.py --workdir=/shared/run --config.num_steps=100
#   DRY_RUN=1 launch/slurm_gpu.sh configs/clip.py --workdir=/shared/run    # print, run nothing
#
# Checks the run, then submits itself; options before the config are sbatch's, as --NAME=VALUE.
# --workdir must be on a disk that every node sees. A job that is preempted, reaches its time limit
# or loses a process is queued again and resumes from its last checkpoint. Inside a job (salloc,
# sbatch from the repository root) it trains at once.
#
#   CLIPJAX_VENV=    environment with clipjax[cuda12] or [cuda13] (default .venv if it is there,
#                    else the python3 that is on the PATH)
#   TRIES=           how often in a row a run may end without a new checkpoint (default 3)
#   CHECK=0          submit without checking the config
#SBATCH --job-name=clipjax
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append   # the log of a job that starts again goes on
#SBATCH --signal=TERM@120    # seconds of warning before the time is up, for a last checkpoint
set -euo pipefail

# In a job this file is a copy elsewhere, started where it was submitted.
[[ -n ${SLURM_JOB_ID:-} ]] || cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f launch/training.sh ]] ||
  { echo "error: no launch/training.sh in $PWD: submit from the repository root." >&2 && exit 2; }
# shellcheck source=launch/environment.sh
source launch/environment.sh
# shellcheck source=launch/training.sh
source launch/training.sh

case ${1:-} in
  -h | --help)
    print_header "$0"
    exit 0
    ;;
esac
read_arguments "$@"
find_clipjax

# The value of an option of sbatch, or what is set below #SBATCH.
option() {
  local name=$1 value=$2 given
  for given in "${OPTIONS[@]}"; do
    [[ $given != "--$name="* ]] || value=${given#*=}
  done
  printf '%s' "$value"
}

submit() {
  local nodes tasks
  absolute_workdir "a disk that every node sees"
  needs sbatch "Start this on a login node of the cluster."
  nodes=$(option nodes 1)
  positive --nodes "$nodes"
  tasks=$(option ntasks-per-node 8)
  positive --ntasks-per-node "$tasks"
  tasks=$(option ntasks $((nodes * tasks)))
  say_commit
  check_run "$tasks" --coordinator=auto
  local job=("--chdir=$PWD" "${OPTIONS[@]}" launch/slurm_gpu.sh "${ARGUMENTS[@]#--config=}")
  # Whether the cluster could ever run it.
  run sbatch --test-only "${job[@]}"
  run sbatch "${job[@]}"
}

command=("${CLIPJAX[@]}" --coordinator=auto "${ARGUMENTS[@]}")
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  submit
  if dry_run; then
    say "and the job:"
    run srun --kill-on-bad-exit=0 --wait=120 "${command[@]}"
  fi
  exit 0
fi

# JAX takes 75% of each GPU at start by default; a training job owns its GPUs.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
[[ ${SLURM_NTASKS:-1} -gt 1 ]] || command=("${CLIPJAX[@]}" "${ARGUMENTS[@]}")
# A process that fails ends the others by itself, so that they can save; srun only sweeps up.
command=(srun --kill-on-bad-exit=0 --wait=120 "${command[@]}")

set_commit
say "commit $COMMIT$CHANGES, job $SLURM_JOB_ID, started $((${SLURM_RESTART_COUNT:-0} + 1)) times"
say "$(DRY_RUN=1 run "${command[@]}")"
if dry_run; then
  run "${command[@]}"
  exit 0
fi
status=0
"${command[@]}" || status=$?
# A job that ends is never queued again by itself, not even with a status other than 0.
if another_try "$status" "$WORKDIR"; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
