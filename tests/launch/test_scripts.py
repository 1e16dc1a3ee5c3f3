"""The launch scripts: what they print, what they leave alone, how they make an environment."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCHERS = ("local.sh", "slurm_gpu.sh", "tpu_pod.sh", "gke_jobset.sh", "skypilot.sh", "sweep.sh")
SCRIPTS = ("quickstart.sh", "test.sh", *LAUNCHERS)
ALL = (*(f"launch/{name}" for name in (*SCRIPTS, "environment.sh", "training.sh")), ".ci/run")
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)


def run(
    tree: Path, script: str, *arguments: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script of a tree without what the caller's environment says about scripts."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("CLIPJAX_", "SLURM_"))}
    for name in ("WORKDIR", "PYTHON", "DRY_RUN"):
        env.pop(name, None)
    return subprocess.run(
        ["bash", str(tree / script), *arguments],
        cwd=cwd or tree,
        env=env | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the scripts read, in a path with a space."""
    copy = tmp_path / "a tree"
    copy.mkdir()
    shutil.copytree(ROOT / "launch", copy / "launch")
    shutil.copytree(ROOT / "configs", copy / "configs")
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("script", ALL)
def test_bash_can_read_it(script: str):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


@pytest.mark.parametrize("script", ALL)
def test_names_no_machine(script: str):
    text = (ROOT / script).read_text()
    assert "://" not in text
    assert "/root" not in text
    assert "/work" not in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_comment_at_the_top(script: str):
    done = run(ROOT, f"launch/{script}", "--help")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == (ROOT / "launch" / script).read_text().splitlines()[1][2:]
    assert f"launch/{script}" in done.stdout
    assert "DRY_RUN=1" in done.stdout
    assert "set -euo" not in done.stdout
    assert "SBATCH" not in done.stdout


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh", "local.sh", "slurm_gpu.sh"])
def test_dry_run_quotes_arguments_and_makes_nothing(tree: Path, tmp_path: Path, script: str):
    arguments = ["--config.data.shards=/a b/*.tar"]
    if script in LAUNCHERS:
        arguments = ["configs/quickstart.py", "--workdir=/a b", *arguments]
    before = listing(tmp_path)
    home = tmp_path / "home"
    done = run(tree, f"launch/{script}", *arguments, DRY_RUN="1", HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert r"--config.data.shards=/a\ b/\*.tar" in done.stdout
    assert listing(tmp_path) == before


def test_quickstart_runs_the_documented_commands_from_anywhere(tree: Path, tmp_path: Path):
    done = run(tree, "launch/quickstart.sh", cwd=tmp_path, DRY_RUN="1", CLIPJAX_VENV="/my env")
    commands = [line.strip() for line in done.stdout.splitlines()]
    assert commands[0] == r"python3 -m venv /my\ env"
    assert commands[-3:] == [
        r"/my\ env/bin/clipjax data emoji --out data/emoji",
        r"/my\ env/bin/clipjax train --config=configs/quickstart.py --workdir=runs/quickstart",
        r"/my\ env/bin/clipjax evaluate --workdir=runs/quickstart "
        "--picture=runs/quickstart/picture.png",
    ]


@pytest.mark.parametrize("arguments", [["--workdir=/a b"], ["--workdir", "/a b"]])
def test_quickstart_evaluates_where_it_was_told_to_train(tree: Path, arguments: list[str]):
    done = run(tree, "launch/quickstart.sh", *arguments, DRY_RUN="1")
    assert r"evaluate --workdir=/a\ b --picture=/a\ b/picture.png" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ([], r"-m serial\ and\ not\ parity"),
        (["--fast"], r"-m not\ slow\ and\ not\ parity -n auto"),
        (["--fast", "tests/data"], r"-m not\ slow\ and\ not\ parity tests/data"),
        (["tests/data"], r"-m not\ parity tests/data"),
        (["--parity"], r"-m parity\ and\ not\ full_size"),
        (["-m", "slow", "--fast"], "-m slow"),
    ],
)
def test_test_script_chooses_by_marks(tree: Path, arguments: list[str], chosen: str):
    done = run(tree, "launch/test.sh", *arguments, DRY_RUN="1")
    command = done.stdout.splitlines()[-1]
    both = not arguments
    assert ("not\\ serial" in done.stdout.splitlines()[-2]) == both
    assert f"-m pytest {chosen}" in command
    assert "HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu" in command
    assert ("torch" in done.stdout) == ("--parity" in arguments)


def test_slurm_reports_a_missing_config_and_workdir():
    done = run(ROOT, "launch/slurm_gpu.sh", "nowhere.py", "--workdir=a")
    assert done.returncode == 2
    assert "no such config: nowhere.py" in done.stderr
    done = run(ROOT, "launch/slurm_gpu.sh", "configs/quickstart.py")
    assert done.returncode == 2
    assert "no --workdir" in done.stderr
    assert run(ROOT, "launch/slurm_gpu.sh").returncode == 2


def fake_cluster(folder: Path, status: int) -> dict[str, str]:
    """Puts an srun that ends with `status` and a scontrol that notes its arguments on the PATH."""
    executable(folder / "srun", f'#!/bin/sh\necho "$@" > "{folder}/srun.txt"\nexit {status}\n')
    executable(folder / "scontrol", f'#!/bin/sh\necho "$@" > "{folder}/scontrol.txt"\n')
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "16",
    }


@pytest.mark.parametrize(
    ("status", "requeued"),
    [(0, False), (1, False), (2, False), (75, True), (134, True), (137, True)],
)
def test_slurm_queues_a_saved_run_again(tree: Path, tmp_path: Path, status: int, requeued: bool):
    cluster = fake_cluster(tmp_path / "bin", status)
    workdir = tmp_path / "shared"
    done = run(
        tree, "launch/slurm_gpu.sh", "configs/quickstart.py", f"--workdir={workdir}", **cluster
    )
    assert done.returncode == status
    command = (tmp_path / "bin/srun.txt").read_text().rstrip()
    assert command.endswith(
        f"-m clipjax.cli.train --coordinator=auto --config=configs/quickstart.py "
        f"--workdir={workdir}"
    )
    note = tmp_path / "bin/scontrol.txt"
    assert (note.read_text() == "requeue 7\n") if requeued else not note.exists()


# What a virtual environment and its programs do, without installing anything: `python -m venv DIR`
# makes a DIR/bin/python that notes what pip is asked for, and a `uv` that notes it too.
_FAKE_PYTHON = """\
#!/bin/bash
case "$1 $2" in
  "-m venv")
    [[ ! -e {bin}/no-venv ]] || {{ echo "ensurepip is not available"; exit 1; }}
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    ;;
  "-m pip")
    echo "pip ${{*:3}}" >> {bin}/log
    [[ ! -e {bin}/no-index ]] || {{ echo "ERROR: Could not connect"; exit 1; }}
    [[ "$*" != *" uv" || -e {bin}/no-uv ]] || cp {bin}/fake-uv "${{0%/*}}/uv"
    [[ "$*" != *" uv" || ! -e {bin}/no-uv ]]
    ;;
  *) exec {python} "$@" ;;
esac
"""
_FAKE_UV = """\
#!/bin/bash
echo "uv $*" >> {bin}/log
[[ ! -e {bin}/killed ]] || kill -9 $PPID
"""


class Machine:
    """A machine on which installing is instant: its PATH starts with fakes."""

    def __init__(self, tree: Path, folder: Path):
        self.tree, self.bin = tree, folder
        names = {"bin": f"'{folder}'", "python": f"'{BASE_PYTHON}'"}
        executable(folder / "python3", _FAKE_PYTHON.format(**names))
        executable(folder / "fake-uv", _FAKE_UV.format(**names))
        # Nobody who may install packages.
        executable(folder / "id", "#!/bin/sh\necho 1000\n")
        executable(folder / "sudo", "#!/bin/sh\nexit 1\n")
        self.venv = tree / "env"

    def make(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Makes the environment as the scripts do."""
        script = self.tree / "launch/make.sh"
        script.write_text(
            'set -euo pipefail\ncd "$(dirname "$0")/.."\nsource launch/environment.sh\n'
            'make_environment "$PWD/env" "${EXTRAS:-digits}"\n'
        )
        path = f"{self.bin}:{os.environ['PATH']}"
        return run(self.tree, "launch/make.sh", **{"PATH": path} | variables)

    def set(self, name: str) -> None:
        """Switches a fault on."""
        (self.bin / name).touch()

    def log(self) -> list[str]:
        """Returns what was installed since the last call."""
        path = self.bin / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tree: Path, tmp_path: Path) -> Machine:
    return Machine(tree, tmp_path / "fake bin")


def installs(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if "--editable" in line]


def test_environment_is_made_once(machine: Machine):
    first = machine.make()
    assert first.returncode == 0, first.stderr
    lines = machine.log()
    assert installs(lines) == ["uv"]
    assert lines[-1].endswith("--editable .[digits]")
    again = machine.make()
    assert again.returncode == 0
    assert "done already" in again.stderr
    assert machine.log() == []


def test_environment_follows_pyproject_and_extras(machine: Machine):
    machine.make()
    machine.log()
    with open(machine.tree / "pyproject.toml", "a") as file:
        file.write("# changed\n")
    assert "installing what is new" in machine.make().stderr
    assert installs(machine.log()) == ["uv"]
    assert machine.make(EXTRAS="digits,test").returncode == 0
    assert machine.log()[-1].endswith("--editable .[digits,test]")


def test_environment_with_pip_where_uv_cannot_be_had(machine: Machine):
    machine.set("no-uv")
    done = machine.make()
    assert done.returncode == 0
    assert "using pip" in done.stderr
    assert installs(machine.log()) == ["pip"]


def test_interrupted_installation_does_not_look_complete(machine: Machine):
    machine.set("killed")
    assert machine.make().returncode != 0
    (machine.bin / "killed").unlink()
    (machine.venv / "half").touch()
    machine.log()
    done = machine.make()
    assert done.returncode == 0
    assert "done already" not in done.stderr
    assert installs(machine.log()) == ["uv"]
    assert not (machine.venv / "half").exists()


def test_no_index_is_one_clear_line(machine: Machine):
    machine.set("no-index")
    done = machine.make()
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "ERROR: Could not connect" in error
    assert "pip config list" in error
    assert machine.make().returncode == 1


def test_missing_ensurepip_names_the_package(machine: Machine):
    machine.set("no-venv")
    done = machine.make()
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr.splitlines()[-1]


def test_missing_ensurepip_is_installed_by_root(machine: Machine):
    machine.set("no-venv")
    executable(machine.bin / "id", "#!/bin/sh\necho 0\n")
    executable(machine.bin / "dpkg-query", "#!/bin/sh\nexit 1\n")
    # Lists of packages are missing at first, as on a fresh machine.
    executable(
        machine.bin / "apt-get",
        f"""#!/bin/bash
[[ "$*" != *update* ]] || touch '{machine.bin}/lists'
[[ -e '{machine.bin}/lists' ]] || exit 100
[[ "$*" != *"install"*python3-venv* ]] || rm '{machine.bin}/no-venv'
""",
    )
    done = machine.make()
    assert done.returncode == 0, done.stderr
    assert "installing python3-venv" in done.stderr


def test_folder_of_somebody_else_is_left_alone(machine: Machine):
    machine.venv.mkdir()
    (machine.venv / "mine").touch()
    done = machine.make()
    assert done.returncode == 1
    assert "was not made by this script" in done.stderr
    assert listing(machine.venv) == ["mine"]


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        ("#!/bin/sh\necho 3.9.2\n", "is Python 3.9.2"),
        ("#!/bin/sh\necho broken >&2\nexit 1\n", "does not run (broken)"),
    ],
)
def test_unfit_python_is_reported(machine: Machine, fake: str, message: str):
    executable(machine.bin / "python3", fake)
    done = machine.make()
    assert done.returncode == 1
    assert message in done.stderr
    done = machine.make(PYTHON="/no/python3")
    assert done.returncode == 1
    assert "/no/python3: not found. Install Python 3.11 or newer" in done.stderr


# `clipjax` whose commands end with the status in a file named after them.
_FAKE_CLIPJAX = """\
#!/bin/bash
echo "$*" >> {bin}/log
case "$1 $2" in
  "data emoji")
    name=emoji
    mkdir -p data/emoji/{{combination,concept,groups}}
    [[ -e {bin}/no-drawings ]] || mkdir -p data/emoji/style
    ;;
  train*)
    name=train
    for a in "$@"; do [[ $a != --workdir=* ]] || mkdir -p "${{a#*=}}"; done
    ;;
  evaluate*)
    name=evaluate
    for a in "$@"; do [[ $a != --picture=* ]] || echo png > "${{a#*=}}"; done
    echo THE TABLE
    ;;
esac
exit "$(cat {bin}/"$name" 2>/dev/null || echo 0)"
"""


class Quickstart(Machine):
    """A machine with a `clipjax` that only notes what it is asked for."""

    def __init__(self, tree: Path, folder: Path):
        super().__init__(tree, folder)
        fake = _FAKE_CLIPJAX.format(bin=f"'{folder}'")
        executable(folder / "clipjax", fake)
        uv = (folder / "fake-uv").read_text()
        executable(folder / "fake-uv", uv + f"cp '{folder}/clipjax' \"${{0%/*}}/clipjax\"\n")
        executable(folder / "dpkg-query", "#!/bin/sh\necho installed\n")
        executable(folder / "apt-get", "#!/bin/sh\nexit 100\n")

    def start(self, *arguments: str, **statuses: int) -> subprocess.CompletedProcess[str]:
        """Runs the quickstart with commands that end with these statuses."""
        for name, status in statuses.items():
            (self.bin / name).write_text(str(status))
        path = f"{self.bin}:{os.environ['PATH']}"
        return run(self.tree, "launch/quickstart.sh", *arguments, PATH=path)

    def commands(self) -> Mapping[str, str]:
        """Returns the last arguments of each command since the last call."""
        lines = [line for line in self.log() if not line.startswith(("uv ", "pip "))]
        return {" ".join(line.split()[: 1 + (line.split()[0] == "data")]): line for line in lines}


@pytest.fixture
def quickstart(tree: Path, tmp_path: Path) -> Quickstart:
    return Quickstart(tree, tmp_path / "fake bin")


def test_quickstart_ends_with_the_table_and_redoes_nothing(quickstart: Quickstart):
    done = quickstart.start("--config.data.root=/a b")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "THE TABLE\n"
    assert "runs/quickstart/picture.png" in done.stderr
    assert "Next, to try" in done.stderr
    commands = quickstart.commands()
    assert list(commands) == ["data emoji", "train", "evaluate"]
    assert commands["train"].endswith("--workdir=runs/quickstart --config.data.root=/a b")
    again = quickstart.start("--config.data.root=/a b")
    assert again.stdout == "THE TABLE\n"
    assert list(quickstart.commands()) == ["data emoji", "train"]
    # A run that went on is scored again.
    (quickstart.tree / "runs/quickstart/results.json").write_text("{}")
    quickstart.start()
    assert "evaluate" in quickstart.commands()


def test_quickstart_without_emoji_takes_digits_and_says_so(quickstart: Quickstart):
    done = quickstart.start(emoji=1)
    assert done.returncode == 0, done.stderr
    assert "taking handwritten digits instead" in done.stderr
    commands = quickstart.commands()
    assert list(commands) == ["data emoji", "data digits", "train", "evaluate"]
    assert (
        "--config=configs/quickstart_digits.py --workdir=runs/quickstart-digits"
        in (commands["train"])
    )


def test_quickstart_takes_digits_where_emoji_lack_a_split_that_is_scored(quickstart: Quickstart):
    quickstart.set("no-drawings")
    done = quickstart.start()
    assert done.returncode == 0, done.stderr
    assert "data/emoji has no style" in done.stderr
    assert "fonts-symbola" in done.stderr
    assert "data digits" in quickstart.commands()


@pytest.mark.parametrize(("status", "again"), [(1, False), (2, False), (75, True)])
def test_quickstart_passes_on_how_training_ended(quickstart: Quickstart, status: int, again: bool):
    done = quickstart.start(train=status)
    assert done.returncode == status
    assert ("run the same command again" in done.stderr) == again
    assert "evaluate" not in quickstart.commands()


def test_quickstart_does_not_keep_half_a_table(quickstart: Quickstart):
    assert quickstart.start(evaluate=1).returncode == 1
    assert not (quickstart.tree / "runs/quickstart/table.txt").exists()
    assert quickstart.start(evaluate=0).returncode == 0
