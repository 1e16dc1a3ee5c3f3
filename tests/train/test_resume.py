"""Runs that are killed, stopped, damaged and started again, as real processes."""

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from clipjax.core.checkpoint import CheckpointReader
from clipjax.core.mesh import make_mesh
from clipjax.optim import make_optimizer
from clipjax.train.state import abstract_state, as_dict

pytestmark = pytest.mark.slow

_STEPS = 24


@pytest.fixture(scope="module")
def train(config_file, make_child_env, tmp_path_factory):
    """Starts `clipjax train` for 24 steps on one device; returns the process and its output."""

    def start(workdir, *flags, program="-mclipjax.cli.main"):
        output = tmp_path_factory.mktemp("output") / "log"
        with open(output, "w") as file:
            process = subprocess.Popen(
                [
                    sys.executable,
                    str(program),
                    "train",
                    f"--config={config_file}",
                    f"--workdir={workdir}",
                    f"--config.num_steps={_STEPS}",
                    "--config.log.every_steps=1",
                    *flags,
                ],
                env=make_child_env(1),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return process, output

    return start


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory):
    """The working directory of a run that nobody disturbed, with its last three checkpoints."""
    workdir = tmp_path_factory.mktemp("straight")
    process, output = train(workdir, "--config.checkpoint.keep=3")
    assert process.wait(200) == 0, output.read_text()
    return workdir


@pytest.fixture(scope="module")
def final_state(tiny_config):
    """Restores the state after the last step, bit by bit."""

    def read(workdir):
        config = dataclasses.replace(tiny_config, num_steps=_STEPS)
        mesh = make_mesh(config.mesh, num_devices=1)
        like = as_dict(abstract_state(config, make_optimizer(config.optim, _STEPS), mesh))
        return CheckpointReader(workdir / "checkpoints").restore(_STEPS, like)

    return read


def assert_identical(a, b):
    a, b = (jax.tree_util.tree_leaves_with_path(tree) for tree in (a, b))
    assert len(a) == len(b) > 100
    for (path, x), (_, y) in zip(a, b, strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def test_a_run_killed_again_and_again_ends_bit_identical(train, straight, final_state, tmp_path):
    chance, kills = random.Random(7), 0
    for _ in range(40):
        process, output = train(tmp_path)
        target = chance.randrange(6, 14)
        while process.poll() is None:
            # Killed at a random step after it has begun to learn, whatever it is doing.
            if output.read_text().count("\nstep ") >= target:
                time.sleep(chance.random() * 0.05)
                process.kill()
            time.sleep(0.005)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL, output.read_text()
        kills += 1
    assert process.returncode == 0
    assert kills >= 3
    assert_identical(final_state(tmp_path), final_state(straight))
    ours, expected = ((w / "metrics.jsonl").read_text().splitlines() for w in (tmp_path, straight))
    keep = ("step", "train/loss", "train/grad_norm", "data/samples_seen")
    rows = [[{k: r.get(k) for k in keep} for r in map(json.loads, x)] for x in (ours, expected)]
    assert rows[0] == rows[1]


def test_sigterm_saves_exits_75_and_the_next_run_goes_on(train, straight, final_state, tmp_path):
    process, output = train(tmp_path, "--config.checkpoint.every_steps=1000")
    while "step 5/" not in output.read_text():
        assert process.poll() is None, output.read_text()
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert "asked to stop (SIGTERM)" in output.read_text().splitlines()[-1]
    process, output = train(tmp_path, "--config.checkpoint.every_steps=1000")
    assert process.wait(200) == 0
    assert "resumed at step" in output.read_text()
    assert_identical(final_state(tmp_path), final_state(straight))


def test_a_finished_run_says_so_and_redoes_nothing(train, straight):
    before = {p: p.stat().st_mtime_ns for p in straight.rglob("*") if p.is_file()}
    process, output = train(straight)
    assert process.wait(100) == 0
    assert f"done at step {_STEPS}; nothing to do" in output.read_text()
    after = {p: p.stat().st_mtime_ns for p in straight.rglob("*") if p.is_file()}
    changed = {p.name for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert changed <= {".lock"}


def test_a_flipped_bit_sends_the_run_back_to_the_checkpoint_before(
    train, straight, final_state, tmp_path
):
    damaged = tmp_path / "run"
    shutil.copytree(straight, damaged)
    newest = damaged / "checkpoints" / f"{_STEPS:08d}"
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    process, output = train(damaged)
    assert process.wait(200) == 0, output.read_text()
    assert "is damaged" in output.read_text()
    assert f"resumed at step {_STEPS - 4}" in output.read_text()
    assert_identical(final_state(damaged), final_state(straight))


def test_other_shards_are_refused_unless_allowed(train, straight, tmp_path, shards_root):
    shutil.copytree(straight, tmp_path / "run")
    flags = ["--config.data.shards=train/00000.tar", "--config.num_steps=26"]
    process, output = train(tmp_path / "run", *flags)
    assert process.wait(100) == 1
    message = output.read_text().splitlines()[-1]
    assert message.startswith(f"error: the checkpoint of step {_STEPS} saw other data")
    assert "allow_other_data" in message
    process, output = train(tmp_path / "run", *flags, "--config.checkpoint.allow_other_data=True")
    assert process.wait(100) == 0, output.read_text()


def test_another_model_is_refused(train, straight):
    process, output = train(straight, "--config.model.embed_dim=8")
    assert process.wait(100) == 1
    assert "holds another model" in output.read_text().splitlines()[-1]


_UNAWARE = """
import sys
from clipjax.core.checkpoint import CheckpointWriter
CheckpointWriter.lack_of_space = lambda self, state: ""
from clipjax.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("aware", [True, False], ids=["found before", "found while writing"])
def test_a_full_disk_costs_no_checkpoint_and_with_room_the_run_goes_on(
    train, straight, final_state, small_disk, tmp_path, aware
):
    disk, resize = small_disk
    script = tmp_path / "unaware.py"
    script.write_text(_UNAWARE)
    flags = ["--config.checkpoint.keep=100", "--config.checkpoint.max_failed_saves=2"]
    resize(2300)  # room for three checkpoints of six
    process, output = train(disk, *flags, program="-mclipjax.cli.main" if aware else script)
    assert process.wait(100) == 1, output.read_text()
    text = output.read_text()
    reader = CheckpointReader(disk / "checkpoints")
    newest = reader.newest_verified()
    assert newest == reader.steps()[-1] >= 4
    assert "warning: not saved" in text
    assert "Traceback" not in text
    last = text.splitlines()[-1]
    assert last.startswith("error: the state was not saved (2 tries)"), text
    assert f"the last good checkpoint is of step {newest}" in last
    assert sorted(p.name for p in reader.directory.iterdir()) == [
        f"{step:08d}" for step in reader.steps()
    ]  # nothing half written
    resize(100_000)
    process, output = train(disk, *flags)
    assert process.wait(200) == 0, output.read_text()
    assert f"resumed at step {newest}" in output.read_text()
    assert_identical(final_state(disk), final_state(straight))


def test_two_runs_cannot_share_a_directory(train, tmp_path):
    first, output = train(tmp_path, "--config.num_steps=100000")
    while "step 3/" not in output.read_text():
        assert first.poll() is None, output.read_text()
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it holds the directory and takes no time
    second, output = train(tmp_path)
    assert second.wait(100) == 1
    first.kill()
    first.wait()
    assert f"another run (pid {first.pid}) is writing here" in output.read_text()


def test_a_loss_that_stays_nan_ends_the_run_and_keeps_the_checkpoint(train, straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    flags = ["--config.num_steps=100", "--config.optim.peak_learning_rate=1e38"]
    process, output = train(tmp_path / "run", *flags, "--config.checkpoint.every_steps=1000")
    assert process.wait(100) == 1
    assert "not finite" in output.read_text().splitlines()[-1]
    reader = CheckpointReader(tmp_path / "run" / "checkpoints")
    assert reader.newest_verified() == _STEPS
