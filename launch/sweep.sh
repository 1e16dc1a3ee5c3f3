#!/usr/bin/env bash
# Prints one training command for each combination of values; runs nothing.
#
#   launch/sweep.sh configs/quickstart.py --workdir=runs/sweep \
#     --config.optim.peak_learning_rate=1e-3,3e-4 --config.seed=0,1          # four commands
#   launch/sweep.sh ... | bash                                               # one after another
#   LAUNCHER="launch/slurm_gpu.sh --nodes=2" launch/sweep.sh ... | bash      # as many jobs
#
# Values are separated by commas, those in brackets or after a backslash left out: "(9,16),(16,)"
# are two, "a\,b" is one. Each run gets a folder of its own in --workdir, named after its values, the
# same each time: the same sweep goes on where it stopped. DRY_RUN=1 leaves out the check as well.
#
#   LAUNCHER=        what starts a run (default: `clipjax train` itself)
#   CLIPJAX_VENV=    environment with clipjax (default .venv if it is there, else python3)
#   CHECK=0          print without checking the configs
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
# shellcheck source=launch/training.sh
source launch/training.sh

MOST_RUNS=10000

case ${1:-} in
  -h | --help)
    print_header launch/sweep.sh
    exit 0
    ;;
esac
read_arguments "$@"
no_options
find_clipjax
say_commit

# Sets `values` to the parts of a list, e.g. "(9,16),(16,)" to "(9,16)" and "(16,)".
split() {
  local text=$1 part='' depth=0 i letter
  values=()
  for ((i = 0; i < ${#text}; i++)); do
    letter=${text:i:1}
    case $letter in
      "\\")
        if [[ ${text:i+1:1} == , ]]; then
          letter=,
          i=$((i + 1))
        fi
        ;;
      "(" | "[" | "{") depth=$((depth + 1)) ;;
      ")" | "]" | "}") depth=$((depth - 1)) ;;
      ,)
        if [[ $depth -eq 0 ]]; then
          values+=("$part")
          part=''
          continue
        fi
        ;;
    esac
    part+=$letter
  done
  values+=("$part")
}

# What is swept, and what all runs share.
names=() lists=() fixed=() total=1
skip=''
for argument in "${ARGUMENTS[@]:1}"; do
  if [[ -n $skip ]]; then
    skip=''
    continue
  fi
  case $argument in
    --workdir=*) continue ;;
    --workdir)
      skip=1
      continue
      ;;
    --config.*=*) split "${argument#*=}" ;;
    *) values=("$argument") ;;
  esac
  if [[ ${#values[@]} -eq 1 ]]; then
    [[ $argument != --config.*=* ]] || argument=${argument%%=*}=${values[0]}
    fixed+=("$argument")
  else
    names+=("${argument%%=*}")
    lists+=("${argument#*=}")
    total=$((total * ${#values[@]}))
  fi
done
[[ ${#names[@]} -gt 0 ]] || usage "no list: give at least one field values with commas between"
[[ $total -le $MOST_RUNS ]] || usage "$total runs; expected at most $MOST_RUNS"

read -r -a launcher <<<"${LAUNCHER:-}"
for ((number = 0; number < total; number++)); do
  rest=$number chosen=() name=
  for ((i = ${#names[@]} - 1; i >= 0; i--)); do
    split "${lists[i]}"
    value=${values[rest % ${#values[@]}]}
    rest=$((rest / ${#values[@]}))
    chosen=("${names[i]}=$value" "${chosen[@]}")
    name=${names[i]#--config.}=$value${name:+,$name}
  done
  # A name that a file system or a shell would stumble over gets a short hash for what is lost.
  plain=${name//[^A-Za-z0-9_.,=+-]/_}
  if [[ $plain != "$name" || ${#plain} -gt 200 ]]; then
    plain=${plain:0:200}-$(printf '%s' "$name" | sha256sum | cut -c 1-8)
  fi
  arguments=("--workdir=$WORKDIR/$plain" "${fixed[@]}" "${chosen[@]}")
  if ! dry_run && [[ ${CHECK:-1} != 0 ]]; then
    ARGUMENTS=("--config=$CONFIG" "${arguments[@]}")
    check_run 0 >&2
  fi
  if [[ ${#launcher[@]} -gt 0 ]]; then
    DRY_RUN=1 run "${launcher[@]}" "$CONFIG" "${arguments[@]}"
  else
    DRY_RUN=1 run "${CLIPJAX[@]}" "--config=$CONFIG" "${arguments[@]}"
  fi
done
