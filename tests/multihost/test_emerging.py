"""Two processes look at units together and draw the curves of one."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.serial]

_FLAGS = [
    "--config.num_steps=4",
    "--config.evals.tasks.pairs.kind=retrieval",
    "--config.neurons.every_steps=2",
    "--config.neurons.batch_size=64",
    "--config.model.head.kind=sparse_relu",
]


def curves_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        (line["step"], name): value
        for line in lines
        for name, value in line.items()
        if name.startswith("neurons/")
    }


def test_two_processes_draw_the_curves_of_one(launch, clipjax_command, config_file, tmp_path):
    done = clipjax_command(
        "train", f"--config={config_file}", f"--workdir={tmp_path / 'one'}", *_FLAGS, devices=4
    )
    assert done.returncode == 0, done.stderr
    assert "neurons at step 2 (" in done.stderr
    run = launch(tmp_path / "two", *_FLAGS, num_processes=2)
    assert run.wait() == [0, 0], run.text(0) + run.text(1)
    assert "neurons at step 4 (" in run.text(0)
    assert "neurons at step" not in run.text(1)
    one, two = (curves_of(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert {step for step, _ in one} == {0, 2, 4}
    assert two == pytest.approx(one, rel=1e-3, abs=1e-3)
