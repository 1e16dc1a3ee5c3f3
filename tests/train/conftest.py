"""A tiny training step on any mesh, and batches of random pairs."""

import shutil
import types

import jax
import numpy as np
import pytest

from clipjax.core.checkpoint import CheckpointReader
from clipjax.core.mesh import make_mesh
from clipjax.losses import make_loss
from clipjax.train.setup import batch_spec
from clipjax.train.state import abstract_state, as_dict, init_state, optimizer_of
from clipjax.train.step import compile_step, make_train_step


@pytest.fixture(scope="session")
def step_config(tiny_config, replace_in):
    """`tiny_config` for 20 steps."""
    return replace_in(tiny_config, "num_steps", 20)


@pytest.fixture(scope="session")
def make_trainer():
    """Returns init(), step(state, batch) and batch(k) of a config, on one device or a mesh.

    `compiled` is the jitted step itself, `like` and `spec` describe its arguments.
    """

    def make(config, mesh=None, loss=None, teacher=None):
        mesh = mesh or make_mesh(config.mesh, num_devices=1)
        optimizer = optimizer_of(config)
        spec = batch_spec(config, mesh)
        like = abstract_state(config, optimizer, mesh)
        places = jax.tree.map(lambda leaf: leaf.sharding, like)
        loss = loss or make_loss(config.loss, mesh)
        train_step = make_train_step(config, optimizer, loss, teacher=teacher)
        compiled = compile_step(train_step, like, spec, teacher)
        taught_by = () if teacher is None else (teacher.params,)

        def step(state, batch):
            with jax.set_mesh(mesh):
                return compiled(state, batch, *taught_by)

        def batch(number):
            rng = np.random.default_rng(number)
            arrays = _images(rng, spec)
            tokens = rng.integers(0, config.model.text.vocab_size, spec["tokens"].shape)
            tokens[:, -1] = config.model.text.vocab_size - 1
            arrays["tokens"] = tokens.astype(np.int32)
            return {k: jax.device_put(v, spec[k].sharding) for k, v in arrays.items()}

        return types.SimpleNamespace(
            mesh=mesh,
            config=config,
            like=like,
            spec=spec,
            batch=batch,
            step=step,
            compiled=compiled,
            init=lambda: jax.jit(lambda: init_state(config, optimizer), out_shardings=places)(),
        )

    return make


@pytest.fixture(scope="session")
def losses_of():
    """Runs a trainer: (state, losses) after steps on batch(0), batch(1), ..."""

    def run(trainer, steps):
        state, losses = trainer.init(), []
        for number in range(steps):
            state, metrics = trainer.step(state, trainer.batch(number))
            losses.append(float(metrics["train/loss"]))
        return state, losses

    return run


def _images(rng, spec):
    """Random squares, or patches of images of random shapes with garbage behind them."""
    if "images" in spec:
        shape = spec["images"].shape
        return {"images": rng.integers(0, 256, shape).astype(spec["images"].dtype)}
    rows, most, _ = spec["patches"].shape
    grid = np.stack([rng.integers(1, 3, rows), rng.integers(1, most // 2 + 1, rows)], 1)
    places = np.arange(most)
    row, column = places // grid[:, 1:], places % grid[:, 1:]
    return {
        "patches": rng.integers(0, 256, spec["patches"].shape).astype(np.uint8),
        "patch_positions": np.stack([row, column], -1).astype(np.int16),
        "patch_mask": places < grid.prod(axis=1, keepdims=True),
        "patch_grid": grid.astype(np.int32),
    }


@pytest.fixture(scope="session")
def run_here():
    """Runs a config in this process; returns the figures of the run."""
    from clipjax.core.distributed import Cluster, joined
    from clipjax.train.run import run

    def start(config, workdir):
        with joined(Cluster()) as lifeline:
            return run(config, workdir, lifeline)

    return start


@pytest.fixture(scope="session")
def resumed_state(run_here):
    """Checks that a finished run, taken up again at one of its checkpoints, ends the same."""

    def arrays(config, workdir):
        mesh = make_mesh(config.mesh)
        like = as_dict(abstract_state(config, optimizer_of(config), mesh))
        state = CheckpointReader(workdir / "checkpoints").restore(config.num_steps, like)
        return {
            jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }

    def check(config, workdir, step):
        expected = arrays(config, workdir)
        assert len(expected) > 50
        again = workdir.with_name(workdir.name + "-again")
        shutil.copytree(workdir, again)
        for folder in (again / "checkpoints").iterdir():
            if int(folder.name) > step:
                shutil.rmtree(folder)
        assert run_here(config, again)["resumed_from"] == step
        assert arrays(config, again) == expected

    return check
