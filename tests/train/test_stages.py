"""A run whose sizes and locks change on the way."""

import dataclasses
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import GuardConfig, MeshConfig, StageConfig, TrainConfig, UserError
from clipjax.core.distributed import Cluster, joined
from clipjax.core.mesh import make_mesh
from clipjax.models import init_params, with_params
from clipjax.models.surgery import position_maps
from clipjax.optim import make_optimizer
from clipjax.train.programs import Programs, stage_specs
from clipjax.train.run import run
from clipjax.train.state import abstract_state, init_state

COMPILE = "/jax/core/compile/backend_compile_duration"

STAGES = {
    "small": StageConfig(image_size=8, context_length=8, global_batch_size=32, lock_text=0),
    "dropped": StageConfig(first_step=5, patch_dropout=0.5),
    "last": StageConfig(first_step=9),
}


@pytest.fixture(scope="module")
def staged_config(tiny_config):
    return dataclasses.replace(
        tiny_config,
        stages=STAGES,
        mesh=MeshConfig(fsdp=1),
        log=dataclasses.replace(tiny_config.log, every_steps=1),
    )


def train(config, workdir):
    with joined(Cluster()) as lifeline:
        return run(config, workdir, lifeline)


def losses_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "train/loss" in line}


class Compilations:
    """Counts them after the first line of the log of the run."""

    def __init__(self):
        self.of_steps, self.started, self.before = [], False, 0

    def __call__(self, event, _seconds, **more):
        if event == COMPILE and self.started:
            self.of_steps.append(more)
        elif event == COMPILE:
            self.before += 1


@pytest.fixture(scope="module")
def straight(staged_config, tmp_path_factory):
    """(workdir, figures, compilations after the first step) of the run from beginning to end."""
    from clipjax.train import loop

    workdir, seen = tmp_path_factory.mktemp("staged"), Compilations()
    jax.monitoring.register_event_duration_secs_listener(seen)
    log = loop.Loop._log

    def noted(self, step, metrics):
        log(self, step, metrics)
        seen.started = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_log", noted)
        figures = train(staged_config, workdir)
    jax.monitoring.unregister_event_duration_listener(seen)
    assert seen.before >= len(STAGES)
    return workdir, figures, seen.of_steps


def test_each_stage_has_its_sizes_and_nothing_is_compiled_on_the_way(straight):
    workdir, figures, compiled = straight
    assert figures["step"] == 12
    lines = losses_of(workdir)
    assert [lines[step]["data/samples_seen"] for step in (1, 5, 6, 12)] == [
        32,
        5 * 32,
        5 * 32 + 16,
        5 * 32 + 7 * 16,
    ]
    # Orbax cuts copies apart at the first save; of ours nothing is compiled on the way.
    assert {more["fun_name"] for more in compiled} <= {"jit(slice)"}


def test_a_run_resumed_in_another_stage_equals_the_straight_one(straight, staged_config, tmp_path):
    """Step 4 is of the first stage, step 8 of the second; the same program on the same numbers."""
    workdir, _, _ = straight
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    for step in (8, 12):
        shutil.rmtree(copy / "checkpoints" / f"{step:08d}", ignore_errors=True)
    # Of the kept two checkpoints the older one is of step 8: the run begins anew.
    (copy / "results.json").unlink()
    train(staged_config, copy)
    ours, theirs = losses_of(copy), losses_of(workdir)
    assert {s: m["train/loss"] for s, m in ours.items()} == {
        s: m["train/loss"] for s, m in theirs.items()
    }


@pytest.fixture(scope="module")
def stepped(staged_config):
    """The states after the steps 0 to 6, and a batch for each step, of random numbers."""
    config = staged_config
    mesh = make_mesh(config.mesh, num_devices=1)
    optimizer = make_optimizer(config.optim, config.num_steps)
    like = abstract_state(config, optimizer, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, like)
    told = []
    programs = Programs(config, optimizer, mesh, like, say=told.append)
    state = jax.jit(lambda: init_state(config, optimizer), out_shardings=places)()
    states = [jax.tree.map(np.asarray, state)]
    for step in range(7):
        stage = next(part for part in config.parts if step < part.stop_step)
        (spec,) = stage_specs(stage, mesh)
        rng = np.random.default_rng(step)
        batch = {
            name: jax.device_put(rng.integers(0, 250, leaf.shape).astype(leaf.dtype), leaf.sharding)
            for name, leaf in spec.items()
        }
        state, _ = programs(step, state, batch)
        states.append(jax.tree.map(np.asarray, state))
    return states, told


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def moments(state):
    adam = next(s for s in jax.tree.leaves(state.opt_state, is_leaf=_is_adam) if _is_adam(s))
    return adam.mu


def _is_adam(x):
    return hasattr(x, "mu")


def test_what_a_stage_locks_waits_with_its_moments(stepped):
    states, _ = stepped
    text = {name for name in states[0].params if name.startswith("text/")}
    for before, after in itertools.pairwise(states[:6]):
        assert changed(before.params, after.params) == set(before.params) - text
        assert not changed(moments(before), moments(after)) & text
    moved = changed(states[5].params, states[6].params)
    assert text <= moved
    assert text <= changed(moments(states[5]), moments(states[6]))
    # The optimizer's own count goes on.
    assert int(states[7].step) == 7


def test_every_program_is_told_with_its_memory(stepped):
    _, told = stepped
    assert len(told) == 3
    assert "stage small from step 0, batch 32, texts of 8; a device needs" in told[0]


def test_a_stage_sees_the_model_of_its_sizes(staged_config):
    """Positions are those of `resize_image` and the first of the text, and get gradients."""
    from clipjax.models.surgery import resize_context, resize_image

    whole, small = staged_config.model, staged_config.parts[0].config.model
    params = init_params(whole, 0)
    maps = position_maps(whole, small)
    assert set(maps) == {"image/positions", "text/positions"}
    resized = {**params, **{name: table @ params[name] for name, table in maps.items()}}
    config, expected = resize_image(whole, params, 8)
    config, expected = resize_context(config, expected, 8, how="truncate")
    assert config == small
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    ours = with_params(small, resized).encode_image(jnp.asarray(images))
    theirs = with_params(small, {k: jnp.asarray(v) for k, v in expected.items()}).encode_image(
        jnp.asarray(images)
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_a_stage_that_contradicts_itself_is_refused(tiny_config):
    def told(**stages):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (each text is looked at)
            dataclasses.replace(tiny_config, stages=stages)
        return str(caught.value)

    assert "stages.a: patch_size=8 does not divide image_size=12" in told(
        a=StageConfig(image_size=12)
    )
    assert "image_size=32 is more than model.image.image_size=16" in told(
        a=StageConfig(image_size=32)
    )
    assert "first_step=12 is not below num_steps=12" in told(a=StageConfig(first_step=12))
    assert "stages.b and stages.a both begin" in told(a=StageConfig(), b=StageConfig())
    assert "context_length=99 is more" in told(a=StageConfig(context_length=99))
    assert "stages.a: patch_dropout" in told(a=StageConfig(patch_dropout=1.5))


@pytest.fixture
def guarded_config(tiny_config):
    return dataclasses.replace(
        tiny_config,
        num_steps=16,
        guard=GuardConfig(abort_after=2, max_rollbacks=2),
        log=dataclasses.replace(tiny_config.log, every_steps=1),
        evals=dataclasses.replace(tiny_config.evals, tasks={}),
        mesh=MeshConfig(fsdp=1),
    )


def test_a_spoilt_run_goes_back_and_past_the_data(guarded_config, tmp_path, monkeypatch, capfd):
    """Batches 7 and 8 of the data are spoilt: back to the checkpoint of step 4, and past them.

    Later 17 and 18 are: back to one that knows what was left out before.
    """
    from clipjax.train import programs

    batches_seen, in_a_row = [], [0]
    call = programs.Programs.__call__

    def noted(self, step, state, batch):
        first = int(np.asarray(batch["tokens"]).sum())
        batches_seen.append((step, first))
        new, metrics = call(self, step, state, batch)
        in_a_row[0] = in_a_row[0] + 1 if first in spoilt else 0
        with jax.transfer_guard("allow"):
            bad = [jax.device_put(np.int32(in_a_row[0]), new.step.sharding) for _ in range(2)]
        new = dataclasses.replace(new, bad_steps=bad[0])  # nothing is saved meanwhile
        return new, {**metrics, "train/bad_steps": bad[1]}

    # A first run, undisturbed, says what the batches look like.
    spoilt = set()
    monkeypatch.setattr(programs.Programs, "__call__", noted)
    config = guarded_config
    train(dataclasses.replace(config, num_steps=30), tmp_path / "plain")
    sums = dict(batches_seen)
    spoilt = {sums[7], sums[8], sums[17], sums[18]}
    batches_seen.clear()
    figures = train(config, tmp_path / "spoilt")
    assert figures["step"] == 16
    told = capfd.readouterr().err
    assert "Going back to step 4 and leaving out" in told
    seen = [step for step, _ in batches_seen]
    backs = [place for place in range(1, len(seen)) if seen[place] <= seen[place - 1]]
    record = json.loads((tmp_path / "spoilt" / "checkpoints" / "00000016" / "run.json").read_text())
    assert [at for at, _ in record["skipped"]] == [seen[place] for place in backs]
    assert len(backs) == 2
    # In the end every step has seen the batch so much further on as was left out before it.
    last = dict(batches_seen)
    for step in range(16):
        left_out = sum(batches for at, batches in record["skipped"] if at <= step)
        assert last[step] == sums[step + left_out]
    assert not spoilt & set(last.values())


def test_without_a_way_back_the_run_ends_with_what_to_do(guarded_config, tmp_path, monkeypatch):
    from clipjax.train import programs

    call = programs.Programs.__call__

    def spoilt(self, step, state, batch):
        new, metrics = call(self, step, state, batch)
        with jax.transfer_guard("allow"):
            return new, {**metrics, "train/bad_steps": jnp.full((), step, jnp.int32)}

    monkeypatch.setattr(programs.Programs, "__call__", spoilt)
    config = dataclasses.replace(guarded_config, guard=GuardConfig(abort_after=5))
    with pytest.raises(UserError, match=r"for 5 steps now.*guard\.max_rollbacks"):
        train(config, tmp_path / "run")


def test_a_config_without_stages_is_one_part(tiny_config):
    (part,) = tiny_config.parts
    assert (part.name, part.first_step, part.stop_step) == ("", 0, 12)
    assert part.config == tiny_config
    assert isinstance(part.config, TrainConfig)
    assert tiny_config.samples_seen(5) == 80
