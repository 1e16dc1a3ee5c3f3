#!/usr/bin/env bash
# From an empty machine to a trained and evaluated model, in less than ten minutes on two cores.
#
#   bash launch/quickstart.sh                            # all of it; again: resumes, or says "done"
#   bash launch/quickstart.sh --config.num_steps=100     # arguments go to `clipjax train`
#   DRY_RUN=1 bash launch/quickstart.sh                  # print the commands, run nothing
#
# Makes a Python environment, draws emoji with the fonts of this machine (or, where there are none,
# composes handwritten digits), trains a small model to match pictures with names, and scores it on
# pictures and names that it never saw.
#
#   PYTHON=          interpreter to use (default python3; 3.11 or newer)
#   CLIPJAX_VENV=    where the environment is made (default .venv)
#   CLIPJAX_EXTRAS=  further extras to install, for example cuda12
#   WORKDIR=         where checkpoints and figures go (default runs/quickstart; --workdir works too)
#
# Exit status: 0 done, 1 failed, 2 a wrong argument, 75 interrupted but saved: run it again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh

case ${1:-} in
  -h | --help)
    print_header launch/quickstart.sh
    exit 0
    ;;
esac

venv=${CLIPJAX_VENV:-.venv}
workdir=${WORKDIR:-}
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --workdir=*) workdir=${!i#*=} ;;
    --workdir)
      next=$((i + 1))
      workdir=${!next:-}
      ;;
  esac
done

STEPS=5
step "environment in $venv"
make_environment "$venv" "digits${CLIPJAX_EXTRAS:+,$CLIPJAX_EXTRAS}"

step "fonts and names of emoji (Debian packages)"
debian_packages "${EMOJI_PACKAGES[@]}"

step "data"
data=emoji config=configs/quickstart.py
status=0
run "$venv/bin/clipjax" data emoji --out data/emoji || status=$?
reason="emoji cannot be drawn here (see above)"
if [[ $status -eq 0 ]] && ! dry_run; then
  # Without Unicode's lists and the font of line drawings, some of what is scored is missing.
  for part in combination concept style groups; do
    if [[ ! -d data/emoji/$part ]]; then
      reason="data/emoji has no $part, since some of these are missing: ${EMOJI_PACKAGES[*]}"
      reason+=" (with them: remove data/emoji and start again)"
      status=1
      break
    fi
  done
fi
if [[ $status -eq 1 ]]; then
  say "  $reason; taking handwritten digits instead"
  data=digits config=configs/quickstart_digits.py
  status=0
  run "$venv/bin/clipjax" data digits --out data/digits || status=$?
fi
[[ $status -eq 0 ]] || exit "$status"
if [[ -z $workdir ]]; then
  workdir=runs/quickstart
  [[ $data == emoji ]] || workdir=runs/quickstart-digits
fi

step "training into $workdir"
run "$venv/bin/clipjax" train "--config=$config" "--workdir=$workdir" "$@" || status=$?
if [[ $status -eq 75 ]]; then
  say "The run is saved and not finished: run the same command again to go on."
fi
[[ $status -eq 0 ]] || exit "$status"

step "evaluation"
picture=$workdir/picture.png scores=$workdir/table.txt
evaluate=("$venv/bin/clipjax" evaluate "--workdir=$workdir" "--picture=$picture")
if dry_run; then
  run "${evaluate[@]}"
  exit 0
fi
if [[ -s $scores && -s $picture && $scores -nt $workdir/results.json ]]; then
  say "  done already: $scores"
else
  "${evaluate[@]}" >"$scores.partial"
  mv "$scores.partial" "$scores"
fi

printf -v command '%q' "$venv/bin/clipjax"
printf -v python '%q' "$venv/bin/python"
printf -v quoted '%q' "$workdir"
if [[ $data == emoji ]]; then
  shards=data/emoji/combination query="a woman with dark skin"
  others="$command data digits --out data/digits &&
     $command train --config=configs/quickstart_digits.py --workdir=runs/digits"
else
  shards=data/digits/unseen query="a handwritten eight five"
  others="$command inspect --config=$config"
fi
say
say "Next, to try:

  1. Search pictures that were held out with words of yours:
     $python - <<'END'
import tarfile, clipjax
shard = tarfile.open('$shards/00000.tar')
files = {member.name: shard.extractfile(member).read() for member in shard}
keys = [name[:-4] for name in files if name.endswith('.png')]
model = clipjax.load('$workdir')
scores = model.similarity([files[key + '.png'] for key in keys], '$query')[:, 0]
for i in (-scores).argsort()[:5]:
    print(f'{scores[i]:.2f}', files[keys[i] + '.txt'].decode())
END

  2. Train another way (every field: $command inspect --config=$config):
     $command train --config=$config --workdir=runs/sigmoid \\
       --config.loss.kind=sigmoid --config.model.init_logit_bias=-10

  3. $([[ $data == emoji ]] && echo "Other data, read from the pixels of handwriting:" ||
  echo "What a run is, without running it:")
     $others

Score the same model again, for programs: $command evaluate --workdir=$quoted --json=-
"
say "The picture, queries and what the model found for them: $PWD/$picture"
say "The scores, chance beside each:"
cat "$scores"
