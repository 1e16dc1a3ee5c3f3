"""The command line from the shell: exit statuses, one line on standard error, JSON alone."""

import json
import math
import subprocess
import sys

import pytest

from clipjax.cli.main import COMMANDS, EXIT_STATUSES, main
from clipjax.config import UserError


def assert_one_line(done, status, *parts):
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


FROM_THE_SHELL = {
    "a misspelt field": (
        ["--config={config}", "--config.optim.peak_lerning_rate=1e-3"],
        ["config.optim.peak_lerning_rate: no such field.", "Did you mean 'peak_learning_rate'?"],
    ),
    "a misspelt flag": (
        ["--config={config}", "--wrkdir=x"],
        ["no flag --wrkdir.", "Did you mean '--workdir'?"],
    ),
    "a wrong type": (
        ["--config={config}", "--config.num_steps=many"],
        ["config.num_steps=many", "invalid literal for int()"],
    ),
    "a section as a dict": (
        ["--config={config}", "--config.optim={{'weight_decay': 0.1}}"],
        ["config.optim={'weight_decay': 0.1}: is a section", "beta1, beta2, clip_norm"],
    ),
    "a missing file": (
        ["--config=configs/quikstart.py"],
        ["--config=configs/quikstart.py: no such file.", "Did you mean 'configs/quickstart.py'?"],
    ),
    "a file that raises": (
        ["--config={raises}"],
        ["raises.py:5: ZeroDivisionError: division by zero"],
    ),
}


@pytest.fixture
def raises(tmp_path):
    path = tmp_path / "raises.py"
    path.write_text("print('to stdout')\n\n\ndef get_config():\n    return 1 / 0\n")
    path.write_text(path.read_text().replace("print('to stdout')", '"""A config."""'))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "parts"), FROM_THE_SHELL.values(), ids=FROM_THE_SHELL)
def test_a_usage_error_is_one_line_with_the_nearest_name(
    clipjax_command, config_file, raises, tmp_path, flags, parts
):
    flags = [flag.format(config=config_file, raises=raises) for flag in flags]
    done = clipjax_command("train", "--workdir", tmp_path / "run", *flags)
    assert_one_line(done, 2, *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_misspelt_command_gets_the_nearest_name(clipjax_command):
    assert_one_line(clipjax_command("trian"), 2, "'trian'", "Did you mean 'train'?", *COMMANDS)


@pytest.mark.slow
def test_the_module_of_a_command_runs_it_too(make_child_env):
    done = subprocess.run(
        [sys.executable, "-m", "clipjax.cli.train", "--config=x.py", "--wrkdir=x"],
        env=make_child_env(),
        capture_output=True,
        text=True,
    )
    assert_one_line(done, 2, "clipjax train: no flag --wrkdir.", "'--workdir'")


@pytest.mark.slow
def test_json_to_standard_output_is_one_object_and_all_else_goes_to_standard_error(
    clipjax_command, config_file
):
    done = clipjax_command("inspect", "--config", config_file, "--json", "-")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout)["samples_seen"] == 12 * 16
    assert "first batch" in done.stderr


# In this process: what needs no shell.


def run_main(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_help_lists_the_commands_and_the_exit_statuses(capsys):
    for argv in ((), ("--help",), ("-h",)):
        status, out, err = run_main(capsys, *argv)
        assert (status, err) == (0, "")
        assert EXIT_STATUSES in out
        for name, (_, what, _) in COMMANDS.items():
            assert f"{name} " in out
            assert what in out
    assert [line.split()[0] for line in EXIT_STATUSES.splitlines()[1:]] == [
        "0",
        "1",
        "2",
        "3",
        "75",
        "130",
    ]


@pytest.mark.parametrize("name", ["train", "evaluate", "inspect", "data"])
def test_the_help_of_a_command_lists_the_exit_statuses_too(capsys, name):
    status, out, _ = run_main(capsys, name, "--help")
    assert status == 0
    assert out.startswith(f"usage: clipjax {name}")
    assert EXIT_STATUSES in out


def test_the_version_is_that_of_the_package(capsys):
    import clipjax

    assert run_main(capsys, "--version")[:2] == (0, f"clipjax {clipjax.__version__}\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--verison"], "clipjax: "),
        (["train"], "clipjax train: the following arguments are required: --config, --workdir."),
        (["train", "--config"], "clipjax train: argument --config: expected one argument."),
        (["train", "--config=x", "--workdir=y", "more"], "unrecognized arguments: more"),
        (["train", "--conf=x"], "clipjax train: no flag --conf. Did you mean '--config'?"),
        (["inspect", "--config=x", "--devices=two"], "invalid int value: 'two'"),
        (["data", "emojis", "--out=x"], "Did you mean 'emoji'?"),
        (["data", "digits", "--outt=x"], "no flag --outt. Did you mean '--out'?"),
        (["data", "digits"], "the following arguments are required: --out"),
    ],
)
def test_a_usage_error_ends_with_status_2_and_one_line(capsys, argv, message):
    status, out, err = run_main(capsys, *argv)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.fixture
def command(monkeypatch):
    """Replaces the command `data digits --out X` by a function."""

    def replace(function):
        monkeypatch.setattr("clipjax.cli.data.run", function)
        return ["data", "digits", "--out", "x"]

    return replace


def test_a_mistake_of_the_user_is_one_line_and_status_1(capsys, command):
    def fail(args):
        raise UserError("the shard is empty")

    assert run_main(capsys, *command(fail)) == (1, "", "error: the shard is empty\n")


def test_our_own_mistake_keeps_its_traceback(command):
    def fail(args):
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        main(command(fail))


def test_an_interrupted_command_says_so(capsys, command):
    def interrupt(args):
        raise KeyboardInterrupt

    assert run_main(capsys, *command(interrupt)) == (130, "", "interrupted\n")


def test_a_command_chooses_its_exit_status(capsys, command):
    def preempted(args):
        args.exit_status = 75

    assert run_main(capsys, *command(preempted))[0] == 75


def test_figures_go_where_json_says(capsys, command, tmp_path):
    def figures(args):
        print("a table")
        return {"recall": 0.5}

    argv = command(figures)
    assert run_main(capsys, *argv) == (0, "a table\n", "")
    assert run_main(capsys, *argv, "--json", "-") == (0, '{"recall": 0.5}\n', "a table\n")
    path = tmp_path / "figures.json"
    assert run_main(capsys, *argv, "--json", str(path)) == (0, "a table\n", "")
    assert json.loads(path.read_text()) == {"recall": 0.5}


def test_figures_that_cannot_be_written_are_a_mistake_of_the_user(capsys, command, tmp_path):
    worked = []
    argv = command(lambda args: worked.append(1))
    missing = tmp_path / "missing" / "x.json"
    for path, why in (
        (tmp_path, "it is a folder"),
        (missing, f"there is no folder {missing.parent}"),
    ):
        status, _, err = run_main(capsys, *argv, "--json", str(path))
        assert status == 1
        assert err == f"error: --json={path}: cannot be written ({why}).\n"
    assert not worked  # said before hours of work, not after


def test_figures_are_json_for_every_reader(capsys, command):
    argv = command(lambda args: {"loss": math.nan, "rates": [math.inf, 1]})
    _, out, _ = run_main(capsys, *argv, "--json", "-")
    assert out == '{"loss": "nan", "rates": ["inf", 1]}\n'
