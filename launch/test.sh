#!/usr/bin/env bash
# Runs the tests in an environment of their own, which is made first.
#
#   bash launch/test.sh                       # the whole suite, without torch
#   bash launch/test.sh --fast                # without the slow tests
#   bash launch/test.sh --parity              # recomputes the stored references with torch,
#                                             # open_clip and transformers, in a third environment
#   bash launch/test.sh --parity -m full_size # the same for whole published models: minutes, 10 GB
#   bash launch/test.sh tests/data -k emoji   # further arguments go to pytest, in one process
#   DRY_RUN=1 bash launch/test.sh             # print the commands, run nothing
#
#   PYTHON=               interpreter to use (default python3; 3.11 or newer)
#   CLIPJAX_TEST_VENV=    where the environment is made (default .venv-test)
#   CLIPJAX_PARITY_VENV=  the same for --parity (default .venv-parity)
#   CLIPJAX_SLURM=1       install Debian's slurm-wlm and munge, whose daemons Debian starts; without
#                         them the tests on a real Slurm skip
#   CLIPJAX_BROWSER=1     install Debian's chromium; without it the tests of what it shows skip
#   CLIPJAX_ARTEFACTS=    folder that gets the screenshots (default: none are kept)
#
# Exit status: pytest's, or 1 if the environment could not be made.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

fast='' parity='' chosen=''
arguments=()
for argument in "$@"; do
  case $argument in
    -h | --help)
      print_header launch/test.sh
      exit 0
      ;;
    --fast) fast=1 ;;
    --parity) parity=1 ;;
    *)
      # One's own -m replaces the choice that is made here.
      [[ $argument != -m* ]] || chosen=1
      arguments+=("$argument")
      ;;
  esac
done

# Tests share the cores, but for those that watch the clock or take all cores, and parity, which
# measures: these run one after another.
parallel=()
if [[ -z $chosen && -z $parity && ${#arguments[@]} -eq 0 ]]; then
  marks="not serial and not parity"
  [[ -z $fast ]] || marks="not slow and not parity"
  # In the order of tests/conftest.py.
  parallel=(-m "$marks" -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder)
  arguments=(-m "serial and not parity")
elif [[ -z $chosen ]]; then
  marks="not parity"
  [[ -z $parity ]] || marks="parity and not full_size"
  [[ -z $fast ]] || marks="not slow and $marks"
  arguments=(-m "$marks" "${arguments[@]}")
fi

STEPS=3
step "environment"
if [[ -n $parity ]]; then
  venv=${CLIPJAX_PARITY_VENV:-.venv-parity}
  make_environment "$venv" test,digits,parity torch
else
  venv=${CLIPJAX_TEST_VENV:-.venv-test}
  make_environment "$venv" test,digits
fi

step "emoji and photographs (Debian packages; without, tests skip or take others)"
if [[ -n $parity ]]; then
  debian_packages "${EMOJI_PACKAGES[@]}" "${PHOTO_PACKAGES[@]}"
else
  debian_packages "${EMOJI_PACKAGES[@]}"
fi
if [[ ${CLIPJAX_SLURM:-0} != 0 ]]; then debian_packages "${SLURM_PACKAGES[@]}"; fi
if [[ ${CLIPJAX_BROWSER:-0} != 0 ]]; then debian_packages "${BROWSER_PACKAGES[@]}"; fi

step "tests"
# The first run compiles, later ones read: about half of the time.
cache=${XDG_CACHE_HOME:-${HOME:-.}/.cache}/clipjax/jax-cache
command=(env HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu
  "JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$cache}"
  "$venv/bin/python" -m pytest)
status=0
if [[ ${#parallel[@]} -gt 0 ]]; then
  run "${command[@]}" "${parallel[@]}" || status=$?
  [[ -z $fast && $status -le 1 ]] || exit "$status"
fi
command+=("${arguments[@]}")
if [[ $status -ne 0 ]]; then
  # Both halves are seen before the script fails.
  "${command[@]}" || true
  exit "$status"
fi
# exec, so that a signal reaches pytest.
if dry_run; then run "${command[@]}"; else exec "${command[@]}"; fi
