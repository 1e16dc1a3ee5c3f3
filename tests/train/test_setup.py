import dataclasses
import json

import pytest

from clipjax.cli.main import main
from clipjax.config import UserError
from clipjax.core.checkpoint import CheckpointReader
from clipjax.data.tokenizers import tokenizer_from_json
from clipjax.train.setup import (
    _other_data,
    checkpoint_files,
    open_data,
    open_source,
    resume_step,
    run_record,
)


def saved_file(workdir, step, name):
    return json.loads(CheckpointReader(workdir / "checkpoints").read(step, name))


@pytest.fixture(scope="module")
def source(tiny_config):
    return open_source(tiny_config)


def test_a_checkpoint_tells_the_hash_of_its_tokenizer(trained, tiny_config, source):
    workdir, figures = trained
    saved = saved_file(workdir, figures["step"], "run.json")
    tokenizer = tokenizer_from_json(saved_file(workdir, figures["step"], "tokenizer.json"))
    assert saved["tokenizer"] == tokenizer.digest()
    assert {**run_record(tiny_config, source), "tokenizer": tokenizer.digest()} == saved


@pytest.mark.parametrize(
    "fields", [{"kind": "lion"}, {"moments_dtype": "bfloat16"}, {"freeze": ("text/embedding",)}]
)
def test_another_optimizer_state_is_refused(trained, tiny_config, source, fields):
    workdir, figures = trained
    optim = dataclasses.replace(tiny_config.optim, **fields)
    config = dataclasses.replace(tiny_config, optim=optim)
    told = f"the checkpoint of step {figures['step']} holds another model or optimizer state"
    with pytest.raises(UserError, match=told):
        resume_step(workdir, run_record(config, source), config)


def test_another_schedule_is_not(trained, tiny_config, source):
    workdir, figures = trained
    optim = dataclasses.replace(tiny_config.optim, schedule="linear", rates=("image/*=0.5",))
    config = dataclasses.replace(tiny_config, optim=optim)
    assert resume_step(workdir, run_record(config, source), config) == figures["step"]


def test_a_resumed_run_has_the_tokenizer_of_its_checkpoint(trained, tiny_config, source):
    workdir, figures = trained
    saved = json.dumps(saved_file(workdir, figures["step"], "tokenizer.json")).encode()
    data = open_data(tiny_config, source, saved)
    files = checkpoint_files(tiny_config, data.tokenizer, run_record(tiny_config, source))
    assert json.loads(files["tokenizer.json"]) == json.loads(saved)
    assert json.loads(files["run.json"]) == saved_file(workdir, figures["step"], "run.json")


def test_a_checkpoint_is_resumed_whether_or_not_it_tells_the_hash(
    trained, tiny_config, source, monkeypatch
):
    """Older ones do not."""
    workdir, figures = trained
    record = run_record(tiny_config, source)
    assert resume_step(workdir, record, tiny_config) == figures["step"]
    read = CheckpointReader.read

    def read_older(self, step, name):
        content = json.loads(read(self, step, name))
        if name == "run.json":
            del content["tokenizer"]
        return json.dumps(content).encode()

    monkeypatch.setattr(CheckpointReader, "read", read_older)
    assert resume_step(workdir, record, tiny_config) == figures["step"]


def test_a_tokenizer_that_does_not_fit_is_one_line_before_the_run(config_file, tmp_path, capsys):
    vocabulary = tmp_path / "merges.txt"
    vocabulary.write_text("title\nh e\n")
    flags = ["--config.tokenizer.kind=clip", f"--config.tokenizer.path={vocabulary}"]
    with pytest.raises(SystemExit) as ended:
        main(["train", f"--config={config_file}", f"--workdir={tmp_path / 'run'}", *flags])
    assert ended.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "config.model.text.vocab_size=300: the tokenizer has ids up to 514" in last


@pytest.mark.slow
def test_a_run_goes_on_without_the_file_of_its_vocabulary(clipjax_command, config_file, tmp_path):
    pytest.importorskip("ftfy")
    vocabulary, workdir = tmp_path / "merges.txt", tmp_path / "run"
    vocabulary.write_text("title\nr e\nre d</w>\na t</w>\n")

    def train(steps):
        return clipjax_command(
            "train",
            f"--config={config_file}",
            f"--workdir={workdir}",
            f"--config.num_steps={steps}",
            "--config.tokenizer.kind=clip",
            f"--config.tokenizer.path={vocabulary}",
            "--config.model.text.vocab_size=517",
        )

    done = train(4)
    assert done.returncode == 0, done.stderr
    vocabulary.unlink()
    done = train(8)
    assert done.returncode == 0, done.stderr
    assert "resumed at step 4" in done.stderr + done.stdout
    first, last = (saved_file(workdir, step, "run.json")["tokenizer"] for step in (4, 8))
    assert first == last
    saved = saved_file(workdir, 8, "tokenizer.json")
    assert saved["merges"] == ["r e", "re d</w>", "a t</w>"]


PLAIN = {"manifest": "a", "samples": 9}


@pytest.mark.parametrize(
    ("saved", "record", "told"),
    [
        (PLAIN, PLAIN, ""),
        (PLAIN, {**PLAIN, "manifest": "b"}, "manifest was 'a', is 'b'"),
        ({**PLAIN, "order": {"lanes": 4}}, PLAIN, "order was {'lanes': 4}, is None"),
        (PLAIN, {**PLAIN, "order": {"lanes": 4}}, "order was None, is {'lanes': 4}"),
        ({**PLAIN, "order": {"lanes": 4}}, {**PLAIN, "order": {"lanes": 4}}, ""),
        ({**PLAIN, "tokenizer": "c"}, PLAIN, ""),  # of the checkpoint; the run takes it over
    ],
)
def test_data_that_would_not_go_on_in_the_same_order_are_told(saved, record, told, tiny_config):
    found = _other_data(saved, record, tiny_config, 7)
    assert told in found
    assert bool(found) == bool(told)
