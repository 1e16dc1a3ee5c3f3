"""A run of two processes that goes back to its last checkpoint, and past the data."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.serial]

_SPOILT = """
import dataclasses, sys
import jax, numpy as np
from clipjax.train import programs

call, spoilt = programs.Programs.__call__, set()

def noted(self, step, state, batch):
    with jax.transfer_guard("allow"):
        whole = jax.NamedSharding(batch["tokens"].sharding.mesh, jax.P())
        first = int(jax.jit(lambda x: x.sum(), out_shardings=whole)(batch["tokens"]))
        if step in (7, 8) and len(spoilt) < 2:
            spoilt.add(first)
        new, metrics = call(self, step, state, batch)
        count = np.int32((step - 6) * (first in spoilt))
        bad = [jax.device_put(count, new.step.sharding) for _ in range(2)]
        print("batch", step, first, flush=True)
        return dataclasses.replace(new, bad_steps=bad[0]), {**metrics, "train/bad_steps": bad[1]}

programs.Programs.__call__ = noted
from clipjax.cli.main import main
main(["train", *sys.argv[1:]])
"""


def test_two_processes_go_back_together(launch, tmp_path):
    script = tmp_path / "spoilt.py"
    script.write_text(_SPOILT)
    run = launch(
        tmp_path / "run",
        "--config.guard.abort_after=2",
        "--config.guard.max_rollbacks=1",
        "--config.log.every_steps=1",
        num_processes=2,
        script=script,
    )
    assert run.wait() == [0, 0], run.text(0)
    assert "Going back to step 4 and leaving out" in run.text(0)
    saved = tmp_path / "run" / "checkpoints" / "00000012" / "run.json"
    ((at, left_out),) = json.loads(saved.read_text())["skipped"]
    seen = []
    for process in (0, 1):
        lines = [line.split() for line in run.text(process).splitlines()]
        seen.append([tuple(map(int, line[1:])) for line in lines if line[:1] == ["batch"]])
    assert seen[0] == seen[1]
    steps = [step for step, _ in seen[0]]
    back = next(i for i in range(1, len(steps)) if steps[i] <= steps[i - 1])
    assert (steps[back], steps[-1]) == (at, 11)
    before, after = dict(seen[0][:back]), dict(seen[0][back:])
    assert {7, 8} <= before.keys()
    assert not {before[7], before[8]} & set(after.values())
    assert left_out >= 5  # from step 4 past the spoilt ones
