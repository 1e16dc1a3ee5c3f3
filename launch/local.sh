#!/usr/bin/env bash
# Trains on this machine with several processes, as a cluster would.
#
#   launch/local.sh configs/quickstart.py --workdir=runs/two --config.num_steps=100
#   PROCESSES=4 DEVICES=2 launch/local.sh configs/quickstart.py --workdir=runs/eight    # on CPUs
#   DRY_RUN=1 launch/local.sh configs/quickstart.py --workdir=runs/two    # print, run nothing
#
# The processes share the GPUs of this machine, or simulate devices on its CPUs. When one ends, all
# do; a run that was saved, or lost a process, is started again and resumes. Ctrl-C and SIGTERM save
# and stop.
#
#   PROCESSES=       how many (default: one per GPU; 2 without)
#   DEVICES=         simulated devices of each process, without GPUs (default 1)
#   CLIPJAX_VENV=    environment with clipjax (default .venv if it is there, else python3)
#   TRIES=           how often in a row a run may end without a new checkpoint (default 3)
#   CHECK=0          start without checking the config
#
# Exit status: 0 done, 1 failed, 2 a wrong argument, 75 interrupted but saved: run it again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
# shellcheck source=launch/training.sh
source launch/training.sh

# Once one process has ended, the others have so long to save or to notice.
GRACE_SECONDS=120

case ${1:-} in
  -h | --help)
    print_header launch/local.sh
    exit 0
    ;;
esac
read_arguments "$@"
no_options
find_clipjax
gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c . || true)
processes=${PROCESSES:-$((gpus > 0 ? gpus : 2))} devices=${DEVICES:-1}
positive PROCESSES "$processes"
positive DEVICES "$devices"
if [[ $gpus -gt 0 ]]; then
  [[ $((gpus % processes)) -eq 0 ]] || usage "PROCESSES=$processes cannot share $gpus GPUs equally"
  devices=$((gpus / processes))
fi
say_commit
check_run $((processes * devices))

# A port that is free now; the few moments until process 0 listens are a risk that is taken.
free_port() {
  "$PYTHON" -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'
}

# Sets `command` to what process $1 of a run at port $2 is.
process() {
  local mine=()
  if [[ $gpus -gt 0 ]]; then
    mine=("CUDA_VISIBLE_DEVICES=$(seq -s , $(($1 * devices)) $((($1 + 1) * devices - 1)))")
  else
    mine=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices")
  fi
  command=(env "${mine[@]}" "${CLIPJAX[@]}" "${ARGUMENTS[@]}")
  [[ $processes -eq 1 ]] ||
    command+=("--coordinator=127.0.0.1:$2" "--num_processes=$processes" "--process_id=$1")
}

stopped='' pids=()
stop() {
  stopped=1
  kill -TERM "${pids[@]}" 2>/dev/null || true
}

# Starts the processes and returns the status of the run: the highest of theirs.
run_once() {
  local port i status=0 one left
  port=$(free_port)
  pids=()
  for ((i = 0; i < processes; i++)); do
    process "$i" "$port"
    "${command[@]}" &
    pids+=($!)
  done
  # Sweeps up what neither ends by itself nor is told to by the others.
  left=0
  while [[ -n $(jobs -pr) ]]; do
    [[ $(jobs -pr | wc -l) -eq $processes ]] || left=$((left + 1))
    if [[ $left -eq $GRACE_SECONDS ]]; then kill -TERM "${pids[@]}" 2>/dev/null || true; fi
    if [[ $left -eq $((GRACE_SECONDS + 10)) ]]; then kill -KILL "${pids[@]}" 2>/dev/null || true; fi
    sleep 1 || true
  done
  for i in "${pids[@]}"; do
    one=0
    wait "$i" || one=$?
    [[ $one -le $status ]] || status=$one
  done
  return "$status"
}

if dry_run; then
  for ((i = 0; i < processes; i++)); do
    process "$i" PORT
    run "${command[@]}"
  done
  exit 0
fi
trap stop INT TERM
while true; do
  status=0
  run_once || status=$?
  [[ -z $stopped ]] && another_try "$status" "$WORKDIR" || exit "$status"
done
