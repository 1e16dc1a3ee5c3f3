#!/usr/bin/env bash
# Trains on a Cloud TPU pod slice, one process per host, through `gcloud`.
#
#   ZONE=us-west4-a TYPE=v5litepod-64 SETUP='sudo mount 10.0.0.2:/share /mnt' \
#     launch/tpu_pod.sh configs/clip.py --workdir=/mnt/run --config.num_steps=100
#   DRY_RUN=1 ZONE=us-west4-a TYPE=v5litepod-64 launch/tpu_pod.sh ...    # print, run nothing
#
# Checks the run, asks for the slice (a queued resource; one that is there already is used), sends
# the commit (not what is changed since) to every host, and trains. A slice that is preempted is
# asked for again; a run that was saved, or lost a process, is started again and resumes. The slice
# is kept at the end: the last line says how to delete it.
#
#   ZONE=, TYPE=     where, and which accelerator type
#   VERSION=         of the runtime (default v2-alpha-tpuv5-lite)    NAME=   (default clipjax)
#   SETUP=           shell command that every host runs first, such as mounting the disk of --workdir
#   HOST_PYTHON=     (default python3.11, which is installed)        SPOT=0  no spot slice
#   TRIES=           how often in a row a run may end otherwise than done (default 3)
#   CLIPJAX_VENV=    environment here, for the check                 CHECK=0 do not check
#
# Exit status: 0 done, 1 failed, 2 a wrong argument.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
# shellcheck source=launch/training.sh
source launch/training.sh

POLL_SECONDS=30

case ${1:-} in
  -h | --help)
    print_header launch/tpu_pod.sh
    exit 0
    ;;
esac
read_arguments "$@"
no_options
find_clipjax
name=${NAME:-clipjax} python=${HOST_PYTHON:-python3.11}
[[ -n ${ZONE:-} ]] || usage "no ZONE="
[[ -n ${TYPE:-} ]] || usage "no TYPE="
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  usage "NAME=$name: expected at most 40 small letters, digits and hyphens"
absolute_workdir "a disk that every host sees (SETUP= can mount it)"
needs gcloud "Install the Google Cloud CLI and log in."
say_commit
[[ -z $CHANGES ]] || say "warning: what is not committed is not sent"
# The number in the name of a type is of cores or of chips: how many devices, its hosts will say.
check_run 0

resource() { run gcloud compute tpus queued-resources "$1" "$name" "--zone=$ZONE" "${@:2}"; }

# run on all hosts; the last argument is a command line for their shells.
on_hosts() {
  run gcloud compute tpus tpu-vm ssh "$name" "--zone=$ZONE" --worker=all "--command=$1"
}

state() {
  gcloud compute tpus queued-resources describe "$name" "--zone=$ZONE" \
    --format="value(state.state)" 2>/dev/null || echo NONE
}

acquire() {
  local spot=(--spot) found
  [[ ${SPOT:-1} != 0 ]] || spot=()
  while true; do
    if dry_run; then found=NONE; else found=$(state); fi
    case $found in
      ACTIVE) return ;;
      SUSPENDED | FAILED)
        say "the slice is $found: it is asked for again"
        resource delete --quiet --force
        ;;
      NONE)
        resource create "--node-id=$name" "--accelerator-type=$TYPE" \
          "--runtime-version=${VERSION:-v2-alpha-tpuv5-lite}" "${spot[@]}"
        ;;
      *) say "the slice is $found" ;;
    esac
    ! dry_run || return 0
    sleep "$POLL_SECONDS"
  done
}

prepare() {
  local packages quoted=''
  # The scripts beside this one make the environment on the hosts too.
  printf -v packages '%q ' "$python" "$python-venv"
  [[ -z ${SETUP:-} ]] || on_hosts "$SETUP"
  run git archive --format=tar.gz "--output=$archive" HEAD
  run gcloud compute tpus tpu-vm scp "$archive" "$name:clipjax.tar.gz" "--zone=$ZONE" --worker=all
  printf -v quoted 'PYTHON=%q' "$python"
  on_hosts "mkdir -p clipjax && tar -xzf clipjax.tar.gz -C clipjax && cd clipjax &&\
 source launch/environment.sh && debian_packages $packages&& $quoted make_environment .venv tpu"
}

# gcloud's own status does not say with which one the hosts ended, so each prints it.
train() {
  local command
  printf -v command '%q ' .venv/bin/python -m clipjax.cli.train "${ARGUMENTS[@]}" --coordinator=auto
  # shellcheck disable=SC2016  # expanded on the hosts
  on_hosts "cd clipjax && { ${command% }; status=\$?; echo \"ended with status \$status\" >&2;\
 exit \$status; }"
}

archive=clipjax-$COMMIT.tar.gz
if dry_run; then
  acquire
  prepare
  train
  exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
archive=$scratch/$archive log=$scratch/log
for ((try = 1; ; try++)); do
  acquire
  prepare
  if train 2>&1 | tee "$log"; then break; fi
  # A slice that is gone is no fault of the run's.
  if [[ $(state) != ACTIVE ]]; then
    try=0
  elif grep -qE 'ended with status (1|2)$' "$log" && ! grep -q 'ended with status 75$' "$log"; then
    fail "the run failed; see above. The slice is kept: $name in $ZONE."
  elif [[ $try -ge ${TRIES:-3} ]]; then
    fail "the run ended $try times before it was done; see above. The slice is kept."
  fi
  say "the run is started again and goes on from its last checkpoint"
done
say "done. Delete the slice: $(DRY_RUN=1 resource delete --force)"
