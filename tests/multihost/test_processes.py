"""Several real processes act as one, and fail as one."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from clipjax.config import MixtureConfig, to_json_dict

pytestmark = [pytest.mark.slow, pytest.mark.serial]

# Quick to find a hang: a step of the tiny run takes milliseconds.
_STEPS = [
    "--config.num_steps=20",
    "--config.log.every_steps=1",
    "--config.evals.tasks.pairs.kind=retrieval",
]
_LONG = [
    "--config.num_steps=100000",
    "--config.log.every_steps=10",
    "--config.checkpoint.every_steps=100000",
]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, clipjax_command, config_file):
    """The run on four devices in one process."""
    workdir = tmp_path_factory.mktemp("one")
    done = clipjax_command(
        "train", f"--config={config_file}", f"--workdir={workdir}", *_STEPS, devices=4
    )
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, launcher):
    """The same run in two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("two")
    run = launcher(workdir, *_STEPS, num_processes=2)
    try:
        assert run.wait() == [0, 0], run.text(0)
    finally:
        run.end()
    return workdir


def test_losses_and_scores_of_two_processes_equal_those_of_one(
    losses_of, one_process, two_processes
):
    assert_same_run(losses_of, two_processes, one_process)


def test_a_run_of_two_processes_resumed_with_four_equals_that_of_one(
    launch, losses_of, one_process, two_processes, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(two_processes, workdir)
    shutil.rmtree(workdir / "checkpoints" / "00000020")
    (workdir / "results.json").unlink()
    run = launch(workdir, *_STEPS, num_processes=4)
    assert run.wait() == [0] * 4, run.text(0)
    assert "resumed at step 16" in run.text(0)
    assert_same_run(losses_of, workdir, one_process)


def test_losses_and_scores_of_four_processes_equal_those_of_one(
    launch, losses_of, one_process, tmp_path
):
    """The parameters and the heads are split, over processes."""
    split = ["--config.mesh.fsdp=2", "--config.mesh.tensor=2"]
    run = launch(tmp_path / "run", *_STEPS, *split, num_processes=4)
    assert run.wait() == [0] * 4, run.text(0)
    assert_same_run(losses_of, tmp_path / "run", one_process)


_SHAPES = [
    "--config.data.image_mode=naflex",
    "--config.data.max_patches=6",
    "--config.data.text_buckets=(9, 16)",
    "--config.data.bucket_group=5",
]


def test_patches_and_bucketed_texts_are_the_same_in_two_processes(
    launch, losses_of, clipjax_command, config_file, tmp_path
):
    one, two = tmp_path / "one", tmp_path / "two"
    done = clipjax_command(
        "train", f"--config={config_file}", f"--workdir={one}", *_STEPS, *_SHAPES, devices=4
    )
    assert done.returncode == 0, done.stderr
    run = launch(two, *_STEPS, *_SHAPES, num_processes=2)
    assert run.wait() == [0, 0], run.text(0)
    assert_same_run(losses_of, two, one)


_ELASTIC = [
    "--config.num_steps=60",
    "--config.log.every_steps=1",
    "--config.checkpoint.every_steps=5",
]


@pytest.fixture
def mixture_file(tiny_config, replace_in, tmp_path):
    """The tiny run on a mixture, read in windows by four lanes."""
    mixture = {
        "a": MixtureConfig(shards="train/00000.tar", weight=2.0),
        "b": MixtureConfig(shards="train/*.tar"),
    }
    config = replace_in(tiny_config, "data.shards", "")
    for field, value in (("mixture", mixture), ("window_shards", 1), ("lanes", 4)):
        config = replace_in(config, f"data.{field}", value)
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(to_json_dict(config)))
    return path


def test_a_run_killed_with_four_processes_goes_on_with_two_and_ends_with_one(
    launch, losses_of, clipjax_command, mixture_file, tmp_path
):
    """A mixture in windows, the order with most to go wrong."""
    flags = [f"--config={mixture_file}", *_ELASTIC]
    one, run = tmp_path / "one", tmp_path / "run"
    done = clipjax_command("train", f"--workdir={one}", *flags, devices=4)
    assert done.returncode == 0, done.stderr

    four = launch(run, *flags, num_processes=4)
    four.wait_for(0, "step 8/")
    four.signal(2)
    assert 0 not in four.wait(60)

    two = launch(run, *flags, num_processes=2)
    two.wait_for(0, "resumed at step")
    two.wait_for(0, "step 24/")
    two.signal(1, signal.SIGTERM)
    assert two.wait(60) == [75, 75], two.text(0)

    last = launch(run, *flags)
    assert last.wait(120) == [0], last.text(0)
    assert "resumed at step" in last.text(0)
    ours, expected = losses_of(run), losses_of(one)
    assert list(ours) == list(expected) == list(range(1, 61))
    np.testing.assert_allclose(list(ours.values()), list(expected.values()), rtol=1e-5)


def assert_same_run(losses_of, workdir, expected_workdir):
    ours, expected = losses_of(workdir), losses_of(expected_workdir)
    assert list(ours) == list(expected) == list(range(1, 21))
    np.testing.assert_allclose(list(ours.values()), list(expected.values()), rtol=1e-5)
    ours, expected = (
        json.loads((w / "results.json").read_text())["tasks"] for w in (workdir, expected_workdir)
    )
    for task, scores in expected.items():
        for metric, score in scores.items():
            assert ours[task][metric]["samples"] == score["samples"]
            # One of 64 samples may fall on the other side of a near-tie.
            assert abs(ours[task][metric]["value"] - score["value"]) <= 1 / 64


def test_a_killed_process_ends_the_others_within_ten_seconds(launch, tmp_path):
    run = launch(tmp_path / "run", *_LONG, num_processes=2)
    run.wait_for(0, "step 10/")
    run.signal(1)
    killed = time.monotonic()
    statuses = run.wait(30)
    assert time.monotonic() - killed < 10
    assert statuses == [75, -signal.SIGKILL]
    assert f"{run.name(1)} died" in run.text(0)


def test_a_killed_first_process_ends_the_others_within_ten_seconds(launch, tmp_path):
    run = launch(tmp_path / "run", *_LONG, num_processes=2)
    run.wait_for(0, "step 10/")
    run.signal(0)
    killed = time.monotonic()
    run.wait(30)
    assert time.monotonic() - killed < 10
    assert f"{run.name(0)} died" in run.text(1)


def test_a_stopped_process_is_named_after_the_limit(launch, tmp_path):
    run = launch(tmp_path / "run", *_LONG, "--config.watchdog.step_seconds=5", num_processes=2)
    run.wait_for(0, "step 10/")
    run.signal(1, signal.SIGSTOP)
    stopped = time.monotonic()
    assert run.processes[0].wait(60) == 75
    assert 4 < time.monotonic() - stopped < 30
    assert f"{run.name(1)}: no progress" in run.text(0)


_FAILING = """
import os, sys, time
import clipjax.data.pairs as pairs
fill = pairs.TrainingPairs._fill

def broken(self, sample, *rest):
    if sample > 500 and "--process_id=1" in sys.argv:
        {what}
    return fill(self, sample, *rest)

pairs.TrainingPairs._fill = broken
from clipjax.cli.main import main
main(["train", *sys.argv[1:]])
"""


def test_a_process_that_raises_ends_the_others_within_ten_seconds(launch, tmp_path):
    script = tmp_path / "raises.py"
    script.write_text(_FAILING.format(what="raise RuntimeError('disk on fire')"))
    run = launch(tmp_path / "run", *_LONG, num_processes=2, script=script)
    # Both must be over within ten seconds of the first one's end.
    end = time.monotonic() + 120
    while all(p.poll() is None for p in run.processes) and time.monotonic() < end:
        time.sleep(0.02)
    first = time.monotonic()
    assert run.wait(30) == [1, 1]
    assert time.monotonic() - first < 10
    for process in (0, 1):
        assert "disk on fire" in run.text(process)
    assert f"{run.name(1)} failed" in run.text(0)


def test_a_process_stuck_in_its_input_is_named_after_the_limit(launch, tmp_path):
    script = tmp_path / "hangs.py"
    script.write_text(_FAILING.format(what="time.sleep(1000)"))
    run = launch(
        tmp_path / "run",
        *_LONG,
        "--config.watchdog.step_seconds=5",
        num_processes=2,
        script=script,
    )
    assert run.wait(120) == [75, 75]
    for process in (0, 1):
        assert f"{run.name(1)}: no progress" in run.text(process)
        assert "'input'" in run.text(process)
    assert f"stacks of {run.name(1)}:" in run.text(0)
    assert "in broken\n    time.sleep(1000)" in run.text(0)


def test_sigterm_to_one_process_saves_and_all_exit_with_75(launch, losses_of, tmp_path):
    flags = _LONG
    run = launch(tmp_path / "run", *flags, num_processes=2)
    run.wait_for(0, "step 10/")
    run.signal(1, signal.SIGTERM)
    assert run.wait(60) == [75, 75], run.text(0)
    assert "asked to stop (SIGTERM)" in run.text(0)
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert (saved / "manifest.json").is_file()
    again = launch(tmp_path / "run", *flags, num_processes=2)
    again.wait_for(0, f"resumed at step {int(saved.name):,}")


def test_processes_with_different_configs_are_refused(launch, tmp_path):
    run = launch(
        tmp_path / "run", num_processes=2, process_flags={1: ["--config.optim.weight_decay=0.3"]}
    )
    assert 0 not in run.wait(60)
    assert "process 1 has another config" in run.text(1)
    assert "process 1" in run.text(0)


_PROBLEMS = """
import sys
from clipjax.core.distributed import Cluster, first_problem, joined

process = int(sys.argv[-1].partition("=")[2])
address = sys.argv[-3].partition("=")[2]
cluster = Cluster(coordinator=address, num_processes=2, process_id=process)
with joined(cluster):
    for problems in (["", ""], ["", "disk of 1 f\\u00fcll"], ["disk of 0", "disk of 1"]):
        print(repr(first_problem(problems[process])), flush=True)
"""


def test_the_problem_of_any_process_is_known_to_all(launch, tmp_path):
    script = tmp_path / "problems.py"
    script.write_text(_PROBLEMS, encoding="utf-8")
    run = launch(tmp_path / "run", num_processes=2, script=script)
    assert run.wait(60) == [0, 0], run.text(0)
    for process in (0, 1):
        lines = run.text(process).splitlines()
        assert lines[-3:] == ["''", "'disk of 1 f\u00fcll'", "'disk of 0'"], lines
