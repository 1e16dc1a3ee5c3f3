"""Batch norm through the trainer: statistics of the global batch, kept, saved, averaged, frozen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipjax
from clipjax.config import ResNetConfig
from clipjax.evals.report import to_json
from clipjax.evals.tasks import make_tasks
from clipjax.losses import softmax_loss
from clipjax.models import with_params
from clipjax.optim import make_optimizer
from clipjax.train.state import abstract_state, evaluated_params

STEPS = 3
SIDE = 32


@pytest.fixture(scope="module")
def config(step_config, replace_in):
    """A ResNet with equal blocks in one stage, 16 pairs a batch, with a moving average."""
    image = ResNetConfig(image_size=SIDE, width=4, depths=(1, 2, 1, 1), num_heads=4)
    return replace_in(step_config, "model.image", image)


@pytest.fixture(scope="module")
def trainer(make_trainer, config):
    """On one device."""
    return make_trainer(config)


def uneven(trainer, number):
    """A batch whose images grow brighter: the parts of a split batch have other statistics."""
    batch = trainer.batch(number)
    images = np.array(batch["images"])
    rows = np.arange(len(images)).reshape(-1, 1, 1, 1)
    images = (images * (rows + 1.0) / len(images)).astype(np.uint8)
    return {**batch, "images": jax.device_put(images, batch["images"].sharding)}


def run(trainer, steps=STEPS):
    state, losses = trainer.init(), []
    for number in range(steps):
        state, metrics = trainer.step(state, uneven(trainer, number))
        losses.append(float(metrics["train/loss"]))
    return state, losses


@pytest.fixture(scope="module")
def straight(trainer):
    """(state, losses) on one device."""
    return run(trainer)


def stem_output(config, params, images):
    """The first convolution, 3 x 3 with stride 2 and a border of zeros, in float64."""
    pixels = images / 255.0
    x = (pixels - np.array(config.model.pixel_mean)) / np.array(config.model.pixel_std)
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    kernel = np.asarray(params["image/stem/0/kernel"], np.float64)
    half = SIDE // 2
    windows = [x[:, i : i + SIDE : 2, j : j + SIDE : 2] for i in range(3) for j in range(3)]
    assert windows[0].shape[1:3] == (half, half)
    return sum(
        w @ k for w, k in zip(windows, kernel.reshape(9, *kernel.shape[2:]), strict=True)
    ).reshape(-1, kernel.shape[-1])


@pytest.mark.slow
def test_the_statistics_of_a_split_batch_are_those_of_the_whole(
    config, straight, make_trainer, mesh_222
):
    """In four parts, over two axes."""
    state, losses = run(make_trainer(config, mesh_222))
    np.testing.assert_allclose(losses, straight[1], rtol=1e-4)
    assert set(state.model_state) == set(straight[0].model_state)
    for name, value in straight[0].model_state.items():
        assert state.model_state[name].sharding.is_fully_replicated
        np.testing.assert_allclose(
            state.model_state[name], value, rtol=1e-3, atol=1e-3 * np.abs(value).max(), err_msg=name
        )


def test_after_one_step_they_are_a_tenth_of_the_batch(trainer, config):
    """In float64; the variance is unbiased. The parts of the batch would give another variance."""
    params = jax.tree.map(np.array, trainer.init().params)
    batch = uneven(trainer, 0)
    out = stem_output(config, params, np.float64(batch["images"]))
    state, _ = trainer.step(trainer.init(), batch)
    name = "image/stem_norms/0"
    np.testing.assert_allclose(state.model_state[f"{name}/mean"], 0.1 * out.mean(0), rtol=1e-4)
    variance = 0.9 + 0.1 * out.var(0, ddof=1)
    np.testing.assert_allclose(state.model_state[f"{name}/variance"], variance, rtol=1e-5)
    parts = np.mean([part.var(0, ddof=1) for part in np.split(out, 8)], axis=0)
    assert (np.abs(0.9 + 0.1 * parts - variance) > 1e-3).all()


def test_every_batch_norm_moves_in_every_step_and_the_step_compiles_once(straight, trainer):
    state = trainer.init()
    for number in range(2):
        before = jax.tree.map(np.array, state.model_state)
        state, _ = trainer.step(state, uneven(trainer, number))
        for name, value in before.items():
            assert np.abs(state.model_state[name] - value).max() > 0, name
    # Three of the stem, three of each of five blocks, and one of each of four shortcuts.
    assert len(state.model_state) == 2 * (3 + 3 * 5 + 4)
    assert trainer.compiled._cache_size() == 1


def test_no_optimizer_sees_them(straight):
    state, _ = straight
    assert not state.params.keys() & state.model_state.keys()
    for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state):
        assert not {"mean", "variance"} & {str(getattr(path[-1], "key", "")).rpartition("/")[2]}


def test_they_are_averaged_with_the_parameters_and_evaluated_so(trainer):
    """The first update forgets with 1/10, as for the parameters."""
    old = jax.tree.map(np.array, trainer.init().model_state)
    state, _ = trainer.step(trainer.init(), uneven(trainer, 0))
    assert set(state.ema) == state.params.keys() | state.model_state.keys()
    for name, value in state.model_state.items():
        expected = 0.1 * old[name] + 0.9 * np.asarray(value)
        np.testing.assert_allclose(state.ema[name], expected, rtol=1e-5, atol=1e-7)
    assert evaluated_params(trainer.config, state) == state.ema
    without = dataclasses.replace(state, ema={})
    assert evaluated_params(trainer.config, without) == {**state.params, **state.model_state}


def test_a_step_whose_loss_is_not_finite_leaves_them(trainer):
    state, _ = trainer.step(trainer.init(), uneven(trainer, 0))
    state.params["log_logit_scale"] = jnp.full_like(state.params["log_logit_scale"], jnp.nan)
    before = jax.tree.map(np.array, state)
    state, _ = trainer.step(state, uneven(trainer, 1))
    assert int(state.bad_steps) == 1
    jax.tree.map(np.testing.assert_array_equal, state.model_state, before.model_state)


def test_a_variance_that_overflows_skips_the_step_although_the_loss_is_finite(trainer):
    """It would stay infinite for ever: everything behind it would be evaluated as zero."""
    state = trainer.init()
    state.params["image/stem/0/kernel"] *= 1e25
    before = jax.tree.map(np.array, state)
    state, metrics = trainer.step(state, uneven(trainer, 0))
    assert np.isfinite(metrics["train/loss"])
    assert np.isfinite(metrics["train/grad_norm"])
    assert int(state.bad_steps) == 1
    jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, state.model_state, before.model_state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.ema))


def test_frozen_statistics_stay_and_normalise_in_training(make_trainer, config, replace_in):
    frozen = make_trainer(replace_in(config, "model.image.frozen_batch_norm", True))
    state, batch = frozen.init(), uneven(frozen, 0)
    rng = np.random.default_rng(0)
    for name, value in state.model_state.items():
        # Means below zero: behind a mean far above it every activation would be zero.
        moved = np.asarray(value) - 0.2 * rng.random(value.shape)
        state.model_state[name] = jax.device_put(moved.astype(np.float32), value.sharding)
    before = jax.tree.map(np.array, state)
    arrays = {**before.params, **before.model_state}

    @jax.jit
    def evaluated(arrays, batch):
        model = with_params(config.model, arrays)
        images, texts = model.encode_image(batch["images"]), model.encode_text(batch["tokens"])
        return softmax_loss(images, texts, jnp.exp(arrays["log_logit_scale"]))

    state, metrics = frozen.step(state, batch)
    np.testing.assert_allclose(metrics["train/loss"], evaluated(arrays, batch), rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, state.model_state, before.model_state)
    for name, value in before.model_state.items():
        # From an average that started elsewhere; the average of what stands still stands still.
        np.testing.assert_allclose(state.ema[name], 0.1 * before.ema[name] + 0.9 * value, rtol=1e-5)
    name = "image/stem_norms/0/scale"
    assert np.abs(state.params[name] - before.params[name]).max() > 0


def test_they_are_replicated_on_a_mesh(config, mesh_222):
    like = abstract_state(config, make_optimizer(config.optim, config.num_steps), mesh_222)
    for name, leaf in like.model_state.items():
        assert leaf.sharding.is_fully_replicated
        assert like.ema[name].sharding.is_fully_replicated
    assert not like.params["image/stages/0/first/conv_1/kernel"].sharding.is_fully_replicated


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.9, 0.0], ids=["averaged", "plain"])
def test_a_run_evaluates_by_them_resumes_bit_identical_and_loads(
    decay, config, tmp_path, run_here, resumed_state, replace_in
):
    config = replace_in(replace_in(config, "num_steps", 6), "optim.ema_decay", decay)
    config = replace_in(config, "model.image.depths", (1, 1, 1, 1))
    config = replace_in(config, "checkpoint.every_steps", 3)
    workdir = tmp_path / "run"
    figures = run_here(config, workdir)
    model = clipjax.load(workdir)
    mean = np.asarray(model.params["image/stem_norms/0/mean"])
    assert np.abs(mean).max() > 0
    scores = {
        name: task.run(model.encoder.bind(model.params))
        for name, task in make_tasks(config.evals, config.data, config.model).items()
    }
    for name, estimates in to_json(scores).items():
        for metric, estimate in estimates.items():
            assert estimate["value"] == figures["tasks"][name][metric]["value"], metric
    pictures = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)
    together = model.encode_image(pictures)
    np.testing.assert_allclose(model.encode_image(pictures[:1])[0], together[0], atol=1e-6)
    bare = jax.jit(lambda params, images: with_params(model.config, params).encode_image(images))
    np.testing.assert_allclose(together, bare(model.params, pictures), atol=1e-5)
    if decay:  # then there is all that can be: statistics, and their average
        resumed_state(config, workdir, 3)
