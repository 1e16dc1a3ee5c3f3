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
