import jax
import pytest

from clipjax.cli.main import main
from clipjax.train import run as module


def train(config_file, tmp_path, monkeypatch, message):
    def fail(*_):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(module, "run", fail)
    main(["train", f"--config={config_file}", f"--workdir={tmp_path}"])


def test_out_of_memory_is_one_line_that_says_what_to_do(config_file, tmp_path, monkeypatch, capsys):
    message = "RESOURCE_EXHAUSTED: Out of memory allocating 289328146048 bytes."
    with pytest.raises(SystemExit) as ended:
        train(config_file, tmp_path, monkeypatch, f"{message}\nand more")
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: out of memory ({message}). Lower data.global_batch_size")


def test_another_failure_of_the_runtime_keeps_its_traceback(config_file, tmp_path, monkeypatch):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        train(config_file, tmp_path, monkeypatch, "INTERNAL: a mistake of ours")


def check(config_file, tmp_path, monkeypatch, *flags):
    monkeypatch.setenv("XLA_FLAGS", "")  # is changed, and put back
    with pytest.raises(SystemExit) as ended:
        main(["train", f"--config={config_file}", f"--workdir={tmp_path}/run", *flags])
    assert not (tmp_path / "run").exists()
    return ended.value.code


def test_a_check_says_how_a_run_would_be_split_and_starts_nothing(
    config_file, tmp_path, monkeypatch, capsys
):
    assert check(config_file, tmp_path, monkeypatch, "--check=4", "--config.mesh.fsdp=2") == 0
    found = capsys.readouterr().out
    assert (
        found == "12 steps of 16 pairs on 4 devices (replica 1, data 2, fsdp 2, tensor 1): good\n"
    )
    assert check(config_file, tmp_path, monkeypatch, "--check=0") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--check=3"], "cannot be split over 3 devices"),
        (["--check=4", "--config.mesh.fsdp=3"], "fsdp=3, tensor=1 does not fill 4 devices"),
        (["--check=0", "--config.seed=-1"], "seed=-1 must be in"),
        (["--check=0", "--num_processes=2"], "need --coordinator=HOST:PORT"),
        (["--check=-1"], "--check=-1: expected a number of devices"),
    ],
)
def test_a_check_refuses_what_the_run_would(
    config_file, tmp_path, monkeypatch, capsys, flags, message
):
    assert check(config_file, tmp_path, monkeypatch, *flags) == 2
    assert message in capsys.readouterr().err
