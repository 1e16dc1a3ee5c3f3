"""A batch that is encoded in parts trains as one that is not."""

import dataclasses

import jax
import numpy as np
import pytest

from clipjax.config import ResNetConfig, UsageError
from clipjax.core.mesh import batch_sharding, make_mesh
from clipjax.train.micro_batches import encoded
from clipjax.train.setup import batch_spec

STEPS = 3


def mesh_of(config, sizes):
    data, fsdp, tensor = sizes
    mesh = dataclasses.replace(config.mesh, data=data, fsdp=fsdp, tensor=tensor)
    return make_mesh(mesh, num_devices=data * fsdp * tensor)


@pytest.fixture(scope="module")
def pair_config(step_config, replace_in):
    """The sigmoid loss needs a bias; the softmax has none."""

    def make(kind, **fields):
        config = step_config
        if kind == "sigmoid":
            config = replace_in(config, "model.init_logit_bias", -10.0)
            config = replace_in(config, "loss.kind", "sigmoid")
        for name, value in fields.items():
            config = replace_in(config, name, value)
        return config

    return make


@pytest.fixture(scope="module")
def whole(pair_config, make_trainer, losses_of):
    """State and losses without parts, by kind."""
    return {
        kind: losses_of(make_trainer(pair_config(kind)), STEPS) for kind in ("softmax", "sigmoid")
    }


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("sizes", "parts"), [((1, 1, 1), 4), ((4, 1, 2), 4), ((2, 2, 1), 2)], ids=str
)
def test_parameters_are_those_of_the_whole_batch(
    kind, sizes, parts, whole, pair_config, make_trainer, losses_of
):
    config = pair_config(kind, micro_batches=parts)
    state, losses = losses_of(make_trainer(config, mesh_of(config, sizes)), STEPS)
    expected, expected_losses = whole[kind]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for name, array in expected.params.items():
        # Adam divides by the root of the second moment: of tiny gradients the sign counts.
        np.testing.assert_allclose(state.params[name], array, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 1, 2), (2, 2, 1)], ids=str)
def test_what_is_encoded_comes_back_in_the_order_of_the_batch(sizes, step_config):
    """The losses alone would not see it: they are the same for pairs in any order."""
    mesh, rows = mesh_of(step_config, sizes), np.arange(16.0)
    with jax.set_mesh(mesh):
        found = jax.jit(lambda x, key: encoded(lambda part, _: 2 * part, x, 2, key))(
            jax.device_put(rows, batch_sharding(mesh)), jax.random.key(0)
        )
    np.testing.assert_array_equal(found, 2 * rows)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_gradients_of_4096_pairs_in_parts_of_64_are_those_of_the_whole_batch(
    kind, pair_config, make_trainer
):
    """By the norm that a step reports and by its first moments, which are a tenth of them."""
    found = []
    for parts in (1, 64):
        sizes = {"data.global_batch_size": 4096, "micro_batches": parts}
        sizes |= {"model.image.depth": 1, "model.text.depth": 1}
        trainer = make_trainer(pair_config(kind, **sizes))
        state, metrics = trainer.step(trainer.init(), trainer.batch(0))
        moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
        found.append((float(metrics["train/grad_norm"]), moments))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
    for one, other in zip(found[1][1], found[0][1], strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other) + 1e-9


def test_parts_take_less_memory(pair_config, make_trainer, replace_in):
    sizes = {}
    for parts in (1, 8):
        config = pair_config("softmax", micro_batches=parts)
        config = replace_in(config, "data.global_batch_size", 256)
        trainer = make_trainer(config)
        program = trainer.compiled.lower(trainer.like, trainer.spec).compile()
        sizes[parts] = program.memory_analysis().temp_size_in_bytes
    assert sizes[8] < sizes[1] / 3


def test_accumulation_is_the_mean_of_the_losses_of_the_parts(pair_config, make_trainer):
    config = pair_config("softmax", micro_batches=2, **{"loss.over": "micro_batch"})
    trainer = make_trainer(config)
    batch = trainer.batch(0)
    _, metrics = trainer.step(trainer.init(), batch)
    alone = pair_config("softmax", **{"data.global_batch_size": 8})
    half = make_trainer(alone)
    losses = []
    for rows in (slice(0, 8), slice(8, 16)):
        part = {name: jax.device_put(np.asarray(x)[rows]) for name, x in batch.items()}
        losses.append(float(half.step(half.init(), part)[1]["train/loss"]))
    np.testing.assert_allclose(metrics["train/loss"], np.mean(losses), rtol=1e-6)


def test_dropped_patches_are_the_same_when_encoded_again(pair_config, make_trainer, replace_in):
    """Another draw in the backward pass would give another gradient than the loss's own."""
    config = pair_config("softmax", micro_batches=4, **{"model.image.patch_dropout": 0.5})
    trainer = make_trainer(config)
    state, metrics = trainer.step(trainer.init(), trainer.batch(0))
    again, same = trainer.step(trainer.init(), trainer.batch(0))
    assert float(metrics["train/loss"]) == float(same["train/loss"])
    jax.tree.map(np.testing.assert_array_equal, state.params, again.params)


def test_batch_norm_in_training_is_refused_and_frozen_is_not(pair_config, replace_in):
    image = ResNetConfig(image_size=32, width=4, depths=(1, 1, 1, 1), num_heads=4)
    with pytest.raises(ValueError, match=r"batch norms of model\.image\.kind='resnet' would norm"):
        pair_config("softmax", micro_batches=2, **{"model.image": image})
    frozen = dataclasses.replace(image, frozen_batch_norm=True)
    pair_config("softmax", micro_batches=2, **{"model.image": frozen})


def test_parts_that_do_not_divide_are_refused(pair_config, step_config):
    with pytest.raises(ValueError, match=r"micro_batches=3 does not divide data\.global_batch"):
        pair_config("softmax", micro_batches=3)
    config = pair_config("softmax", micro_batches=4)
    with pytest.raises(UsageError, match=r"over 8 devices in 4 micro-batches.*can: 32\."):
        batch_spec(config, make_mesh(config.mesh))
    with pytest.raises(ValueError, match="there is one part"):
        pair_config("softmax", **{"loss.over": "micro_batch"})
