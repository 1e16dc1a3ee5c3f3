# shellcheck shell=bash
# What the launchers share: they source it after environment.sh.
#
#   read_arguments "$@"      sets OPTIONS (before the config), CONFIG, WORKDIR and ARGUMENTS, the
#                            arguments of `clipjax train`; ends with status 2 where they are wrong
#   find_clipjax             sets PYTHON and CLIPJAX, the command that is this environment's clipjax
#   check_run NUM_DEVICES [ARGUMENT ...]    fails where the run could not start on so many devices;
#                            0: any number
#   another_try STATUS DIR   whether a run that ended with STATUS is to be started again
#
# CLIPJAX_VENV=   environment with clipjax (default .venv if it is there, else python3 on the PATH)
# CHECK=0         do not check the config here, where clipjax is not installed
# TRIES=          how often in a row a run may end without a new checkpoint (default 3)

usage() {
  say "$(basename "$0"): $*"
  say "usage: $(basename "$0") CONFIG.py --workdir=DIR [--config.FIELD=VALUE ...]; --help says more"
  exit 2
}

read_arguments() {
  local i next
  OPTIONS=()
  while [[ ${1:-} == -* ]]; do
    OPTIONS+=("$1")
    shift
  done
  [[ $# -gt 0 ]] || usage "no config"
  CONFIG=$1
  shift
  # FILE.py:ARGUMENT names a variant.
  [[ -f ${CONFIG%%:*} ]] || usage "no such config: $CONFIG (options before it are --NAME=VALUE)"
  WORKDIR=
  for ((i = 1; i <= $#; i++)); do
    case ${!i} in
      --workdir=*) WORKDIR=${!i#*=} ;;
      --workdir)
        next=$((i + 1))
        WORKDIR=${!next:-}
        ;;
      --config=*) usage "the config is given twice: $CONFIG and ${!i}" ;;
    esac
  done
  [[ -n $WORKDIR ]] || usage "no --workdir"
  [[ $WORKDIR != [a-z]*:/* ]] ||
    usage "--workdir=$WORKDIR: expected a folder. Mount the bucket and give the folder it is in."
  ARGUMENTS=("--config=$CONFIG" "$@")
}

no_options() {
  [[ ${#OPTIONS[@]} -eq 0 ]] || usage "expected the config first, not ${OPTIONS[0]}"
}

# For runs whose processes do not start here.
absolute_workdir() {
  [[ $WORKDIR == /* ]] || usage "--workdir=$WORKDIR: expected an absolute path, on $1"
}

# positive NAME VALUE: a setting that must be a number from 1 on.
positive() {
  [[ $2 =~ ^[1-9][0-9]*$ ]] || usage "$1=$2: expected a number from 1 on"
}

# needs TOOL WHERE_FROM: fails before anything is submitted.
needs() {
  dry_run || command -v "$1" >/dev/null || fail "$1: not found on this machine. $2"
}

find_clipjax() {
  PYTHON=${CLIPJAX_VENV:-.venv}/bin/python
  [[ -x $PYTHON || -n ${CLIPJAX_VENV:-} ]] || PYTHON=python3
  CLIPJAX=("$PYTHON" -m clipjax.cli.train)
}

# The commit that runs, and whether it is all.
set_commit() {
  COMMIT=$(git rev-parse --short HEAD 2>/dev/null) || COMMIT=unknown
  CHANGES=
  [[ -z $(git status --porcelain --untracked-files=no 2>/dev/null) ]] ||
    CHANGES=" with changes that are not committed"
}

say_commit() {
  set_commit
  say "commit $COMMIT$CHANGES"
}

check_run() {
  local num_devices=$1
  shift
  [[ ${CHECK:-1} != 0 ]] || return 0
  dry_run || "$PYTHON" -c 'import clipjax' 2>/dev/null ||
    fail "$PYTHON cannot import clipjax, so the config is not checked. Name an environment with" \
      "CLIPJAX_VENV=, or go on unchecked with CHECK=0."
  run env JAX_PLATFORMS=cpu "${CLIPJAX[@]}" "$@" "${ARGUMENTS[@]}" "--check=$num_devices"
}

# A run is started again when it was saved (75) or a process of it was ended by a signal (above
# 128), unless that happened TRIES times in a row without a new checkpoint.
another_try() {
  local status=$1 note=$2/.tries newest last='' failures=0
  [[ $status -eq 75 || $status -gt 128 ]] || return 1
  newest=$(find "$2/checkpoints" -mindepth 2 -maxdepth 2 -name manifest.json 2>/dev/null |
    sort | tail -n 1)
  [[ ! -r $note ]] || { read -r failures && read -r last; } <"$note" || true
  [[ $newest == "$last" ]] || failures=0
  failures=$((failures + 1))
  if ! { mkdir -p "$2" && printf '%s\n' "$failures" "$newest" >"$note"; }; then
    say "status $status; $note cannot be written: not started again."
    return 1
  fi
  if [[ $failures -gt ${TRIES:-3} ]]; then
    rm -f "$note"
    say "status $status, for the $failures. time without a new checkpoint in $2: not started again."
    return 1
  fi
  say "status $status: the run is started again and goes on from its last checkpoint."
}
