import dataclasses
import functools
import json
import math
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipjax.config import AugmentConfig, MeshConfig
from clipjax.core.mesh import make_mesh
from clipjax.losses import sigmoid_loss, softmax_loss
from clipjax.models import with_params
from clipjax.train.device_crop import crop_and_resize
from clipjax.train.step import caption_groups

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curve.json"
UPDATE = "CLIPJAX_UPDATE_GOLDEN"
STEPS = 20


@pytest.fixture(scope="module")
def trainer(make_trainer, step_config):
    """On one device, uint8 images."""
    return make_trainer(step_config)


@pytest.fixture(scope="module")
def straight(trainer, losses_of):
    """(state, losses) after 20 steps on one device."""
    return losses_of(trainer, STEPS)


def adam_of(state):
    (adam,) = [part for part in state.opt_state if isinstance(part, optax.ScaleByAdamState)]
    return adam


def test_adam_counts_the_steps_taken(straight):
    state, _ = straight
    assert int(adam_of(state).count) == STEPS
    assert int(state.step) == STEPS
    assert int(state.bad_steps) == 0


def test_compiles_once_in_twenty_steps(straight, trainer):
    assert trainer.compiled._cache_size() == 1


def test_the_loss_curve_does_not_change_between_versions(straight):
    """Golden: 20 random batches. CLIPJAX_UPDATE_GOLDEN=1 rewrites the file.

    Batches are random, so the curve shows the arithmetic and not learning; 1e-4 is what another
    processor's order of summation may change in 20 steps.
    """
    _, losses = straight
    if os.environ.get(UPDATE):
        GOLDEN.write_text(json.dumps([round(loss, 6) for loss in losses], indent=0) + "\n")
    np.testing.assert_allclose(losses, json.loads(GOLDEN.read_text()), rtol=1e-4)


def encode(config, params, batch):
    model = with_params(config, params)
    return model.encode_image(batch["images"]), model.encode_text(batch["tokens"])


def test_the_first_loss_is_that_of_the_initial_model(trainer, straight, step_config):
    """Worked out outside the step: encode, then the definition in float64."""
    batch, params = trainer.batch(0), trainer.init().params
    embeds = jax.jit(functools.partial(encode, step_config.model))(params, batch)
    images, texts = (np.asarray(x, np.float64) for x in embeds)
    logits = np.exp(np.float64(params["log_logit_scale"])) * images @ texts.T
    losses = [-np.mean(np.diag(x) - np.log(np.exp(x).sum(axis=1))) for x in (logits, logits.T)]
    np.testing.assert_allclose(straight[1][0], np.mean(losses), rtol=1e-5)


def test_the_same_batch_again_and_again_is_learnt(trainer):
    state, batch, losses = trainer.init(), trainer.batch(0), []
    for _ in range(STEPS):
        state, metrics = trainer.step(state, batch)
        losses.append(float(metrics["train/loss"]))
    assert losses[-1] < 0.7 * losses[0]


def test_the_old_state_is_given_away(trainer):
    old = trainer.init()
    name = "image/patchify/kernel"
    kept = np.array(old.params[name])
    new, _ = trainer.step(old, trainer.batch(0))
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(old.params[name])
    assert np.isfinite(new.params[name]).all()
    assert np.abs(new.params[name] - kept).max() > 0


def test_metrics_are_those_of_the_step(trainer):
    state, metrics = trainer.step(trainer.init(), trainer.batch(0))
    assert set(metrics) == {
        "train/loss",
        "train/grad_norm",
        "train/logit_scale",
        "train/learning_rate",
        "train/bad_steps",
        "train/skipped_steps",
    }
    # Two steps of warm-up to 1e-3.
    np.testing.assert_allclose(metrics["train/learning_rate"], 5e-4, rtol=1e-6)
    np.testing.assert_allclose(
        metrics["train/logit_scale"], np.exp(state.params["log_logit_scale"]), rtol=1e-6
    )
    assert metrics["train/grad_norm"] > 0


def test_the_moving_average_follows_the_parameters(trainer):
    """The first update forgets with 1/10: a tenth of the old and nine tenths of the new."""
    old = {name: np.array(value) for name, value in trainer.init().params.items()}
    state, _ = trainer.step(trainer.init(), trainer.batch(0))
    for name, value in state.params.items():
        expected = 0.1 * old[name] + 0.9 * np.asarray(value)
        np.testing.assert_allclose(state.ema[name], expected, rtol=1e-5, atol=1e-7)


POISONS = ("nan", "inf", "-inf", "gradient")


def poison(kind, length):
    """A caption that makes the loss, or only its gradient, not finite."""
    return np.full(length, 7 + POISONS.index(kind), np.int32)


def poisonous_loss(images, texts, scale, bias, groups):
    """The softmax loss, spoilt by the captions above wherever one is in the batch."""

    def present(kind):
        return (groups == caption_groups(jnp.asarray(poison(kind, 16))[None])[0]).any()

    value = softmax_loss(images, texts, scale)
    for kind in ("nan", "inf", "-inf"):
        value = value + jnp.where(present(kind), float(kind), 0.0) * (1.0 + images[0, 0] ** 2)
    # The root of 0 is 0, but its slope is infinite.
    return value + jnp.sqrt(jnp.where(present("gradient"), 0.0 * images.sum(), 1.0)) - 1.0


@pytest.fixture(scope="module")
def poisoned(make_trainer, step_config, replace_in):
    """A trainer with `poisonous_loss`."""
    config = replace_in(step_config, "loss.equal_captions", True)
    return make_trainer(config, loss=poisonous_loss)


@pytest.mark.parametrize("kind", POISONS)
def test_a_bad_batch_moves_no_parameter_and_poisons_no_moment(kind, poisoned):
    trainer = poisoned
    state, _ = trainer.step(trainer.init(), trainer.batch(0))
    before = jax.tree.map(np.array, state)
    batch = trainer.batch(1)
    batch["tokens"] = batch["tokens"].at[3].set(poison(kind, 16))
    for times in (1, 2):
        state, metrics = trainer.step(state, batch)
        assert np.isfinite(metrics["train/loss"]) == (kind == "gradient")
        assert not np.isfinite(metrics["train/grad_norm"])
        assert int(state.bad_steps) == int(metrics["train/bad_steps"]) == times
        assert int(state.step) == 1 + times
        jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
        # The moments see a zero gradient: they shrink by beta, and stay finite.
        first, now = adam_of(before), adam_of(state)
        for name in before.params:
            np.testing.assert_allclose(now.mu[name], first.mu[name] * 0.9**times, rtol=1e-5)
            np.testing.assert_allclose(now.nu[name], first.nu[name] * 0.98**times, rtol=1e-5)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.ema))
    state, metrics = trainer.step(state, trainer.batch(2))
    assert np.isfinite(metrics["train/loss"])
    assert int(state.bad_steps) == 0
    assert int(adam_of(state).count) == 4
    name = "text/embedding"
    assert np.abs(state.params[name] - before.params[name]).max() > 0


@pytest.mark.parametrize(("before", "after"), [(150.0, 100.0), (99.0, None)])
def test_the_logit_scale_is_clamped(before, after, trainer):
    """Above the limit of 100 it is at the limit after one step; below it moves freely."""
    state = trainer.init()
    state.params["log_logit_scale"] = jnp.full_like(
        state.params["log_logit_scale"], math.log(before)
    )
    state, metrics = trainer.step(state, trainer.batch(0))
    scale = float(np.exp(state.params["log_logit_scale"]))
    np.testing.assert_allclose(metrics["train/logit_scale"], scale, rtol=1e-6)
    if after is None:
        assert 0 < abs(scale - before) < 1
    else:
        np.testing.assert_allclose(scale, after, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=6, max_size=6))
@example([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
@example(
    [[49407, 1, 2, 3], [1, 2, 3, 49407], [49407, 1, 2, 3], [0, 1, 2, 3], [3, 2, 1, 0], [9] * 4]
)
def test_groups_are_equal_if_and_only_if_captions_are(rows):
    tokens = jnp.asarray(rows, jnp.int32)
    groups = np.asarray(jax.jit(caption_groups)(tokens))
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            assert (groups[i] == groups[j]) == (one == other)


def test_captions_of_a_large_batch_do_not_collide():
    """4,096 captions that differ in a few ids: about 0.002 collisions expected at random."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((4096, 16), np.int32)
    tokens[:, :4] = np.stack(np.unravel_index(rng.permutation(8**4), (8,) * 4), axis=1)
    assert len(np.unique(caption_groups(jnp.asarray(tokens)))) == 4096


@pytest.mark.parametrize("equal", [False, True])
def test_equal_captions_are_positives_of_each_other(equal, make_trainer, step_config, replace_in):
    """Five pairs share a caption: the loss is the reference's with groups found by NumPy.

    (In the softmax loss equal captions have equal embeddings, and the switch changes nothing.)
    """
    config = replace_in(step_config, "model.init_logit_bias", -2.0)
    config = replace_in(config, "loss.kind", "sigmoid")
    config = replace_in(config, "loss.equal_captions", equal)
    trainer = make_trainer(config)
    batch = trainer.batch(0)
    tokens = np.array(batch["tokens"])
    tokens[[2, 5, 6, 11]] = tokens[0]
    batch["tokens"] = jax.device_put(tokens, batch["tokens"].sharding)
    params = jax.tree.map(np.array, trainer.init().params)
    images, texts = jax.jit(functools.partial(encode, config.model))(params, batch)
    groups = np.unique(tokens, axis=0, return_inverse=True)[1].astype(np.int32).reshape(-1)
    scale, bias = jnp.exp(params["log_logit_scale"]), jnp.float32(-2.0)
    together, apart = (
        sigmoid_loss(images, texts, scale, bias, g) for g in (jnp.asarray(groups), None)
    )
    assert abs(together - apart) > 0.1
    _, metrics = trainer.step(trainer.init(), batch)
    np.testing.assert_allclose(metrics["train/loss"], together if equal else apart, rtol=1e-5)


def test_equal_images_are_positives_of_each_other(make_trainer, step_config, replace_in):
    """The loss is the reference's with the groups that the host has found, here three rows."""
    config = replace_in(step_config, "data.equal_images", True)
    trainer = make_trainer(config)
    batch, place = trainer.batch(0), trainer.spec["image_hashes"]
    hashes = np.arange(len(batch["tokens"])).astype(place.dtype)
    hashes[[1, 4]] = hashes[0]
    batch["image_hashes"] = jax.device_put(hashes, place.sharding)
    params = jax.tree.map(np.array, trainer.init().params)
    images, texts = jax.jit(functools.partial(encode, config.model))(params, batch)
    scale = jnp.exp(params["log_logit_scale"])
    expected = softmax_loss(images, texts, scale, None, jnp.asarray(hashes))
    assert abs(expected - softmax_loss(images, texts, scale)) > 1e-3
    _, metrics = trainer.step(trainer.init(), batch)
    np.testing.assert_allclose(metrics["train/loss"], expected, rtol=1e-5)


def test_in_device_mode_the_step_crops_and_resizes(make_trainer, step_config, replace_in):
    """The loss is that of the pictures that `crop_and_resize` makes of the canvases."""
    device = replace_in(step_config, "data.image_mode", "device")
    trainer = make_trainer(replace_in(device, "data.canvas_size", 32))
    plain = make_trainer(step_config)
    batch, rng = plain.batch(0), np.random.default_rng(0)
    size = len(batch["tokens"])
    canvas = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
    boxes = np.sort(rng.integers(0, 33, (size, 2, 2)), axis=1).astype(np.float32)
    boxes[:, 1] = np.minimum(boxes[:, 0] + 9, 32) + (boxes[:, 1] - boxes[:, 0]) // 4
    boxes = np.minimum(boxes.reshape(size, 4), 32)
    side = step_config.model.image.image_size
    images = crop_and_resize(jnp.asarray(canvas), jnp.asarray(boxes), side)
    spec = trainer.spec
    assert set(spec) == {"canvas", "boxes", "tokens"}
    placed = {
        "canvas": jax.device_put(canvas, spec["canvas"].sharding),
        "boxes": jax.device_put(boxes, spec["boxes"].sharding),
        "tokens": batch["tokens"],
    }
    expected = plain.step(
        plain.init(), {**batch, "images": jax.device_put(images, batch["images"].sharding)}
    )[1]["train/loss"]
    found = trainer.step(trainer.init(), placed)[1]["train/loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_augmentation_is_a_function_of_seed_and_step(make_trainer, step_config, replace_in):
    """A loss that is a weighted sum of the image embeddings shows what the model saw."""

    def loss(images, texts, scale, bias, groups):
        return (images * jnp.arange(images.shape[1])).mean() * scale

    config = replace_in(step_config, "augment", AugmentConfig(flip=0.5, noise=0.2))
    trainers = [make_trainer(replace_in(config, "seed", seed), loss=loss) for seed in (0, 1)]

    def value(seed, step):
        # Both seeds begin with the parameters of the first: what differs is the augmentation.
        state = dataclasses.replace(trainers[0].init(), step=jnp.int32(step))
        return float(trainers[seed].step(state, trainers[0].batch(0))[1]["train/loss"])

    first = value(0, 3)
    assert value(0, 3) == first
    assert value(0, 4) != first
    assert value(1, 3) != first


def test_dropped_patches_are_a_function_of_seed_and_step(make_trainer, step_config, replace_in):
    """Four patches of which two are kept: seen in the image embeddings, and not in evaluation."""

    def loss(images, texts, scale, bias, groups):
        return (images * jnp.arange(images.size).reshape(images.shape)).mean() * scale

    config = replace_in(step_config, "model.image.patch_dropout", 0.5)
    trainers = [make_trainer(replace_in(config, "seed", seed), loss=loss) for seed in (0, 1)]
    batch = trainers[0].batch(0)

    def value(seed, step):
        state = dataclasses.replace(trainers[0].init(), step=jnp.int32(step))
        return float(trainers[seed].step(state, batch)[1]["train/loss"])

    values = [value(0, step) for step in range(4)]
    assert value(0, 3) == values[3]
    assert len({*values, value(1, 3)}) == 5
    params = trainers[0].init().params
    seen = [
        jax.jit(functools.partial(encode, model))(params, batch)[0]
        for model in (config.model, step_config.model)
    ]
    np.testing.assert_array_equal(*seen)


MESHES = {"811": (8, 1, 1), "222": (2, 2, 2), "181": (1, 8, 1)}


def mesh_of(sizes):
    data, fsdp, tensor = sizes
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


@pytest.fixture(scope="module")
def harder(step_config, replace_in):
    """With augmentation and groups: both must be the same however the batch is split."""
    config = replace_in(step_config, "augment", AugmentConfig(flip=0.5, noise=0.1, shift=1))
    return replace_in(config, "loss.equal_captions", True)


@pytest.fixture(scope="module")
def harder_losses(harder, make_trainer, losses_of):
    return losses_of(make_trainer(harder), STEPS)[1]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_the_mesh_does_not_change_the_losses(sizes, harder, harder_losses, make_trainer, losses_of):
    trainer = make_trainer(harder, mesh_of(sizes))
    _, losses = losses_of(trainer, STEPS)
    np.testing.assert_allclose(losses, harder_losses, rtol=1e-5)
    assert trainer.compiled._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [None, (4, 2, 1)], ids=["one", "421"])
def test_the_sigmoid_loss_trains_with_its_bias(
    sizes, step_config, make_trainer, losses_of, replace_in
):
    config = replace_in(step_config, "model.init_logit_bias", -10.0)
    config = replace_in(config, "loss.kind", "sigmoid")
    trainer = make_trainer(config, sizes and mesh_of(sizes))
    state, losses = losses_of(trainer, STEPS)
    assert losses[-1] < losses[0]
    assert state.params["logit_bias"] != -10.0
    _, metrics = trainer.step(state, trainer.batch(0))
    assert "train/logit_bias" in metrics


@pytest.mark.slow
def test_activations_stay_split_over_the_batch(step_config, make_trainer, mesh_222, replace_in):
    """Read off the compiled program: 28 pairs in four parts of seven.

    A whole batch on one device has 28 rows, 28 x 16 rows of text tokens or 28 x 5 of image tokens;
    nothing else in this model has such a size. Only the loss may hold one: embeddings and logits.
    """
    config = replace_in(step_config, "data.global_batch_size", 28)
    trainer = make_trainer(config, mesh_222)
    with jax.set_mesh(mesh_222):
        program = trainer.compiled.lower(trainer.like, trainer.spec).compile().as_text()
    shapes = {
        tuple(map(int, dims.split(",")))
        for dims in re.findall(r"\b(?:f32|bf16|s32|u8|pred)\[([\d,]+)\]", program)
    }
    width = config.model.embed_dim
    whole = {shape for shape in shapes if {28, 28 * 16, 28 * 5} & set(shape)}
    assert whole <= {(28,), (28, width), (width, 28), (7, 28), (28, 7), (1, 28), (28, 1)}
    assert (7, 16, config.model.text.width) in shapes
