#!/usr/bin/env bash
# Trains on any cloud through SkyPilot, as a managed job that comes back after a preemption.
#
#   GPUS=H100:8 NODES=2 launch/skypilot.sh configs/clip.py --workdir=/checkpoints/run
#   DRY_RUN=1 launch/skypilot.sh configs/clip.py --workdir=/checkpoints/run    # print, run nothing
#
# Checks the run, then launches this tree (with changes that are not committed). SkyPilot starts a
# new cluster where nodes are lost, and the same one where a run ends with 75 (saved); the run
# resumes from the bucket that is mounted at MOUNT.
#
#   GPUS=           accelerators of each node (default H100:8)      NODES=   (default 1)
#   BUCKET=         where checkpoints go (default clipjax-$USER)    MOUNT=   (default /checkpoints)
#   EXTRAS=         of clipjax, on the nodes (default cuda12)       NAME=    (default clipjax)
#   SPOT=0          no spot instances
#   CLIPJAX_VENV=   environment here, for the check     CHECK=0     do not check
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
# shellcheck source=launch/training.sh
source launch/training.sh

PORT=1234

case ${1:-} in
  -h | --help)
    print_header launch/skypilot.sh
    exit 0
    ;;
esac
read_arguments "$@"
no_options
find_clipjax
set_commit

gpus=${GPUS:-H100:8} nodes=${NODES:-1} mount=${MOUNT:-/checkpoints} name=${NAME:-clipjax}
bucket=${BUCKET:-clipjax-${USER:-me}} extras=${EXTRAS:-cuda12}
[[ $gpus =~ ^[A-Za-z0-9-]+:[1-9][0-9]*$ ]] || usage "GPUS=$gpus: expected KIND:NUMBER"
[[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
  usage "NAME=$name: expected at most 40 small letters, digits and hyphens"
[[ $bucket =~ ^[a-z0-9][-a-z0-9]{1,61}[a-z0-9]$ ]] ||
  usage "BUCKET=$bucket: expected 3 to 63 small letters, digits and hyphens"
[[ $extras =~ ^[a-z0-9,-]+$ ]] || usage "EXTRAS=$extras: expected names with commas between"
[[ $mount =~ ^/[A-Za-z0-9/._-]+$ ]] || usage "MOUNT=$mount: expected an absolute path"
positive NODES "$nodes"
absolute_workdir "the bucket of BUCKET="
[[ $WORKDIR == "$mount"/* ]] || usage "--workdir=$WORKDIR: expected a folder in MOUNT=$mount"

task() {
  local command several=''
  printf -v command '%q ' .venv/bin/python -m clipjax.cli.train "${ARGUMENTS[@]}"
  # shellcheck disable=SC2016  # expanded on the nodes
  [[ $nodes -eq 1 ]] || several='--coordinator="$(head -n 1 <<<"$SKYPILOT_NODE_IPS")":'$PORT' \
      --num_processes="$SKYPILOT_NUM_NODES" --process_id="$SKYPILOT_NODE_RANK"'
  cat <<END
name: $name
num_nodes: $nodes
workdir: .
resources:
  accelerators: "$gpus"
  use_spot: $([[ ${SPOT:-1} == 0 ]] && echo false || echo true)
  job_recovery:
    recover_on_exit_codes: [75]
envs:
  CLIPJAX_COMMIT: "$COMMIT$CHANGES"
file_mounts:
  $mount:
    name: $bucket
    mode: MOUNT
setup: |
  set -euo pipefail
  source launch/environment.sh
  make_environment .venv $extras
run: |
  echo "commit \$CLIPJAX_COMMIT"
  # exec: SIGTERM must reach the trainer.
  exec $command$several
END
}

needs sky "pip install skypilot, then sky check."
say "commit $COMMIT$CHANGES"
check_run $((nodes * ${gpus#*:}))
if dry_run; then
  task
  printf '# %s\n' "$(run sky jobs launch "--name=$name" --yes TASK.yaml)"
  exit 0
fi
file=$(mktemp --suffix=.yaml)
trap 'rm -f "$file"' EXIT
task >"$file"
sky jobs launch "--name=$name" --yes "$file"
