import json

import numpy as np
import pytest
from PIL import Image

from clipjax.cli.main import main


@pytest.fixture
def evaluate(trained, tmp_path, capsys):
    """Runs `clipjax evaluate` in this process; returns (exit status, figures, out, err)."""
    workdir, _ = trained

    def run(*flags):
        path = tmp_path / "figures.json"
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", f"--workdir={workdir}", f"--json={path}", *flags])
        figures = json.loads(path.read_text()) if ended.value.code == 0 else None
        return ended.value.code, figures, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_scores_are_those_that_the_run_itself_reported(evaluate, trained):
    workdir, of_the_run = trained
    status, figures, out, _ = evaluate()
    assert status == 0
    assert figures["step"] == 12
    assert figures["workdir"] == str(workdir)
    assert figures["tasks"] == of_the_run["tasks"]
    assert json.loads((workdir / "evaluation-00000012.json").read_text()) == figures
    for task in ("pairs", "colours"):
        assert task in out


@pytest.mark.slow
def test_only_the_named_tasks_are_scored(evaluate):
    _, figures, _, err = evaluate("--tasks=colours")
    assert list(figures["tasks"]) == ["colours"]
    assert "evaluating pairs" not in err


@pytest.mark.slow
def test_another_step_is_another_model(evaluate, trained):
    _, figures, _, _ = evaluate("--step=8", "--tasks=pairs")
    assert figures["step"] == 8
    assert (trained[0] / "evaluation-00000008.json").is_file()


@pytest.mark.slow
def test_a_picture_is_drawn(evaluate, tmp_path):
    path = tmp_path / "found.png"
    status, *_ = evaluate(f"--picture={path}", "--tasks=pairs")
    assert status == 0
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 600  # six rows
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100  # pictures, not a blank sheet


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (
            ["--tasks=color"],
            2,
            "no task 'color'. Did you mean 'colours'? There are: colours, pairs.",
        ),
        (["--tasks="], 2, "names no task. There are: colours, pairs."),
        (["--step=5"], 1, "no checkpoint of step 5. There are [8, 12]."),
        (["--picture=found.pgn"], 2, "--picture=found.pgn: expected a name that ends in .png."),
        (["--picture=x.png", "--tasks=colours"], 2, "--picture needs a retrieval task"),
        (["--picture=/nowhere/x.png", "--tasks=pairs"], 1, "cannot be written (No such file"),
        (["--config.evals.batch_sise=3"], 2, "Did you mean 'batch_size'?"),
    ],
)
def test_a_mistake_is_one_line(evaluate, flags, status, message):
    found, _, out, err = evaluate(*flags)
    assert (found, out) == (status, "")
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in err


def test_a_directory_without_checkpoints_is_a_mistake(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", f"--workdir={tmp_path}"])
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path}: no finished checkpoint")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_scores_that_cannot_be_kept_are_still_reported(evaluate, trained):
    blocked = trained[0] / "evaluation-00000012.json"
    blocked.unlink(missing_ok=True)
    blocked.mkdir()
    try:
        status, figures, out, err = evaluate("--tasks=colours")
    finally:
        blocked.rmdir()
    assert status == 0
    assert "top1" in out
    assert figures["tasks"]["colours"]
    assert f"warning: {blocked} cannot be written" in err


@pytest.mark.slow
def test_the_batch_size_of_the_command_line_is_used(evaluate, monkeypatch):
    from clipjax.inference import load

    sizes, encoder = [], load.Encoder

    def recorded(*args, batch_size, **options):
        sizes.append(batch_size)
        return encoder(*args, batch_size=batch_size, **options)

    monkeypatch.setattr(load, "Encoder", recorded)
    assert evaluate("--tasks=colours", "--config.evals.batch_size=24")[0] == 0
    assert sizes == [24]
