# shellcheck shell=bash
# Helpers of the scripts beside this file, which source it after `cd` to the repository root.
#
#   make_environment DIR EXTRAS [torch]   a virtual environment with clipjax in it, made once
#   debian_packages NAME ...              installs what is missing, where it may; never fails
#
# PYTHON=      the interpreter to build on instead of python3 (3.11 or newer)
# DRY_RUN=1    print the commands instead of running them

OLDEST_PYTHON=3.11
# Fonts and names of emoji, and what Pillow loads to join emoji of several code points.
# shellcheck disable=SC2034
EMOJI_PACKAGES=(fonts-noto-color-emoji fonts-symbola unicode-cldr-core unicode-data libfribidi0)
# A real Slurm, whose daemons the tests start for themselves.
# shellcheck disable=SC2034
SLURM_PACKAGES=(slurm-wlm munge)
# What looks at the pages of the neuron lab.
# shellcheck disable=SC2034
BROWSER_PACKAGES=(chromium)
# Photographs for `clipjax data photos`.
# shellcheck disable=SC2034
PHOTO_PACKAGES=(mate-backgrounds)

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

dry_run() { [[ ${DRY_RUN:-0} != 0 ]]; }

# Runs a command, or prints it so that it can be pasted into a shell.
run() {
  if dry_run; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# Prints the comment at the top of a script: its help.
print_header() { sed -n '2,${/^#\( \|$\)/!q; s/^# \{0,1\}//; p}' "$1"; }

STEP=0 STEPS=0
# Announces a step of $STEPS.
step() {
  STEP=$((STEP + 1))
  printf '[%d:%02d] %d/%d %s ...\n' $((SECONDS / 60)) $((SECONDS % 60)) "$STEP" "$STEPS" "$*" >&2
}

# Sets AS_ROOT to what a command must start with to run as root; fails where that cannot be.
become_root() {
  AS_ROOT=()
  [[ $(id -u) -ne 0 ]] || return 0
  AS_ROOT=(sudo -n)
  command -v sudo >/dev/null && sudo -n true 2>/dev/null
}

_apt() {
  timeout 300 "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq \
    -o DPkg::Lock::Timeout=60 -o Acquire::Retries=1 -o Acquire::http::Timeout=15 "$@" \
    </dev/null >/dev/null 2>&1
}

_apt_install() {
  _apt install -y --no-install-recommends "$@"
}

_missing_packages() {
  local name
  for name in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] ||
      printf '%s\n' "$name"
  done
}

debian_packages() {
  local missing name
  if dry_run; then
    run apt-get install --no-install-recommends "$@"
    return 0
  fi
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    say "  no apt-get here; going on without installing: $*"
    return 0
  fi
  mapfile -t missing < <(_missing_packages "$@")
  if [[ ${#missing[@]} -eq 0 ]]; then
    say "  done already: $*"
    return 0
  fi
  if ! become_root; then
    say "  neither root nor sudo without a password; going on without. To install by hand:"
    say "  apt-get install ${missing[*]}"
    return 0
  fi
  say "  installing ${missing[*]}"
  # The lists of packages are missing on a fresh machine and old on others.
  if ! _apt_install "${missing[@]}"; then
    _apt update || true
    if ! _apt_install "${missing[@]}"; then
      for name in "${missing[@]}"; do
        _apt_install "$name" || say "  could not be installed: $name"
      done
    fi
  fi
}

# Sets PYTHON to an interpreter outside any virtual environment, and PYTHON_VERSION.
_find_python() {
  local python=${PYTHON:-python3} found newer hint=
  command -v "$python" >/dev/null ||
    fail "$python: not found. Install Python $OLDEST_PYTHON or newer" \
      "(Debian: apt-get install python3 python3-venv), or name one with PYTHON=/path/to/python3."
  found=$("$python" -c '
import sys
print("%d.%d.%d" % sys.version_info[:3])
print(sys._base_executable if sys.prefix != getattr(sys, "base_prefix", sys.prefix) else "")
' 2>&1) || fail "$python: does not run (${found##*$'\n'})."
  PYTHON_VERSION=${found%%$'\n'*}
  if ! printf '%s\n' "$OLDEST_PYTHON" "$PYTHON_VERSION" | sort -C -V; then
    for newer in python3.14 python3.13 python3.12 python3.11; do
      if "$newer" -c '' 2>/dev/null; then
        hint=", here for example PYTHON=$newer"
        break
      fi
    done
    fail "$python is Python $PYTHON_VERSION ($(command -v "$python")); clipjax wants" \
      "$OLDEST_PYTHON or newer. Name one with PYTHON=/path/to/python3$hint."
  fi
  # In an activated environment that may be the one to be made anew.
  [[ $found != *$'\n'* ]] || python=${found##*$'\n'}
  PYTHON=$python
}

_make_venv() {
  local dir=$1 name package=python3-venv
  name=$(basename "$PYTHON")
  [[ $name == python3 || $name == python ]] || package=$name-venv
  "$PYTHON" -m venv "$dir" >"$dir/install.log" 2>&1 && return 0
  say "  $PYTHON -m venv failed; Debian keeps what it needs in the package $package"
  debian_packages "$package"
  "$PYTHON" -m venv "$dir" >>"$dir/install.log" 2>&1 ||
    fail "$PYTHON -m venv $dir failed. Install the package $package" \
      "(Debian: apt-get install $package) and run the same command again."
}

# Installs into DIR, with uv where that could be had. Arguments as of `pip install`.
_install() {
  local dir=$1 log=$1/install.log
  shift
  if dry_run; then
    run "$dir/bin/uv" pip install --python "$dir/bin/python" "$@"
    return 0
  fi
  if [[ -x $dir/bin/uv ]]; then
    # Compiled once here rather than by the first process, or by every one where
    # PYTHONDONTWRITEBYTECODE is set.
    "$dir/bin/uv" pip install --quiet --compile-bytecode --python "$dir/bin/python" "$@" \
      >>"$log" 2>&1 && return 0
    say "  uv could not install it; trying pip"
  fi
  _pip_install "$dir" "$@" && return 0
  fail "pip could not install $* into $dir: $(_last_error "$log") If it cannot reach a package" \
    "index, check the network and 'pip config list'. Full log: $log"
}

_pip_install() {
  local dir=$1 log=$1/install.log
  shift
  if dry_run; then
    run "$dir/bin/python" -m pip install "$@"
    return 0
  fi
  "$dir/bin/python" -m pip --disable-pip-version-check install --retries 1 "$@" >>"$log" 2>&1
}

_last_error() {
  grep -iE '^ *(ERROR|error|fatal|OSError)' "$1" | tail -n 1 | tr -d '\n'
  # A sentence of its own.
  printf '.'
}

# The build of torch that the machine's pip is set up for; uv would take a CUDA build.
_install_torch() {
  local dir=$1 pinned=(torch==2.13.0 torchvision==0.28.0)
  say "  installing torch with pip"
  if [[ $PYTHON_VERSION != 3.11.* ]] || ! _pip_install "$dir" "${pinned[@]}"; then
    _pip_install "$dir" torch torchvision ||
      fail "pip could not install torch into $dir: $(_last_error "$dir/install.log")" \
        "Full log: $dir/install.log"
  fi
  dry_run ||
    "$dir/bin/python" -c '
from importlib.metadata import version
for name in ("torch", "torchvision"):
    print(f"{name}=={version(name)}")' >"$dir/torch.txt"
}

# Caches lie in the home directory; where that is not usable there are none.
_set_up_installers() {
  if [[ -z ${HOME:-} ]] || ! mkdir -p "$HOME" 2>/dev/null || [[ ! -w $HOME ]]; then
    export UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1
  fi
  # uv brings certificates of its own, which a network with an authority of its own refuses.
  [[ ! -e /etc/ssl/certs ]] || export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
}

make_environment() {
  local dir=$1 extras=$2 torch=${3:-}
  if dry_run; then
    PYTHON=${PYTHON:-python3} PYTHON_VERSION=$OLDEST_PYTHON.0
    run "$PYTHON" -m venv "$dir"
    _pip_install "$dir" uv
    [[ -z $torch ]] || _install_torch "$dir"
    _install "$dir" --editable ".[$extras]" ${torch:+--constraint "$dir/torch.txt"}
    return 0
  fi
  _find_python
  _set_up_installers
  if [[ -e $dir && ! -e $dir/.clipjax && -n $(ls -A "$dir") ]]; then
    fail "$dir was not made by this script, which would replace it. Move it away, or name" \
      "another folder (CLIPJAX_VENV=, CLIPJAX_TEST_VENV=, CLIPJAX_PARITY_VENV=)."
  fi
  mkdir -p "$dir"
  # .clipjax says that the folder is ours; its content, written last, that it is complete: what it
  # is built on, then what is in it.
  touch "$dir/.clipjax"
  if command -v flock >/dev/null; then
    exec 9<"$dir/.clipjax"
    flock -n 9 || { say "  another process is making $dir; waiting for it" && flock 9; }
  fi
  local base content
  base="$PYTHON_VERSION ${torch:-no-torch} $PWD"
  content=$({ printf '%s\n' "$extras" && cat pyproject.toml; } | sha256sum | cut -d ' ' -f 1)
  if [[ $(cat "$dir/.clipjax") == "$base"$'\n'"$content" ]] && "$dir/bin/python" -c '' 2>/dev/null
  then
    say "  done already: $dir (Python $PYTHON_VERSION)"
  else
    _fill_environment "$dir" "$extras" "$torch" "$base"
    printf '%s\n' "$base" "$content" >"$dir/.clipjax"
  fi
  exec 9<&-
}

_fill_environment() {
  local dir=$1 extras=$2 torch=$3 base=$4 start=$SECONDS known
  known=$(head -n 1 "$dir/.clipjax")
  : >"$dir/.clipjax" # an interrupted installation does not look complete
  if [[ $known == "$base" ]] && "$dir/bin/python" -c '' 2>/dev/null; then
    say "  pyproject.toml or the extras changed: installing what is new into $dir"
  else
    find "$dir" -mindepth 1 -maxdepth 1 ! -name .clipjax -exec rm -rf {} +
    _make_venv "$dir"
    # Not worth waiting for: pip does the same, slower.
    _pip_install "$dir" --timeout 15 uv || say "  uv could not be had; using pip, about a minute"
    [[ -z $torch ]] || _install_torch "$dir"
  fi
  say "  installing clipjax[$extras] and what it needs into $dir"
  _install "$dir" --editable ".[$extras]" ${torch:+--constraint "$dir/torch.txt"}
  say "  installed in $((SECONDS - start)) s (Python $PYTHON_VERSION)"
}
