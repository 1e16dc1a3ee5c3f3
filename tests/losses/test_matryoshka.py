"""Losses of prefixes: definition, every form, groups and hard negatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import LossConfig
from clipjax.losses import LOSSES, Walk, make_loss, matryoshka

DIMS, WEIGHTS = (2, 5, 8), (1.0, 3.0, 0.5)


@pytest.fixture(scope="module")
def batch(pairs, rows_of):
    negatives = rows_of(9, 48, 8, np.float64).reshape(16, 3, 8)
    arrays = (pairs.images, pairs.texts, pairs.scale, pairs.bias)
    return *(np.asarray(x, np.float64) for x in arrays), np.asarray(pairs.groups), negatives


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", LOSSES)
def test_it_is_the_weighted_mean_over_prefixes(kind, batch):
    images, texts, scale, bias, groups, negatives = batch
    loss = LOSSES[kind][0]
    with jax.enable_x64(True):
        expected = 0.0
        for dim, weight in zip(DIMS, WEIGHTS, strict=True):
            cut = (jnp.asarray(unit(x[..., :dim])) for x in (images, texts, negatives))
            image, text, wrong = cut
            rest = jnp.asarray(scale), jnp.asarray(bias), jnp.asarray(groups)
            expected += weight * loss(image, text, *rest, wrong)
        arrays = [jnp.asarray(x) for x in batch]
        value = matryoshka(loss, DIMS, WEIGHTS)(*arrays)
        np.testing.assert_allclose(value, expected / sum(WEIGHTS), rtol=1e-12)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("form", ["ring", "chunked"])
def test_every_form_gives_the_same(kind, form, batch, mesh_222):
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in batch]
        streaming = functools.partial(LOSSES[kind][1], walk=Walk(form, mesh_222, 2))
        both = [
            jax.jit(jax.value_and_grad(matryoshka(loss, DIMS), argnums=(0, 1, 2, 5)))(*arrays)
            for loss in (LOSSES[kind][0], streaming)
        ]
        (expected, expected_grads), (value, grads) = both
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-12)


def test_the_whole_alone_is_the_loss_itself(batch):
    arrays = [jnp.asarray(x, jnp.float32) for x in batch[:4]]
    loss = LOSSES["softmax"][0]
    np.testing.assert_allclose(matryoshka(loss, [8])(*arrays), loss(*arrays), rtol=1e-6)


def test_a_prefix_of_zeros_stays_finite(batch):
    images, texts, scale, bias = (jnp.asarray(x, jnp.float32) for x in batch[:4])
    loss = matryoshka(LOSSES["softmax"][0], DIMS)
    value, grad = jax.value_and_grad(loss)(images.at[0, :2].set(0.0), texts, scale, bias)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_a_run_takes_it_from_its_config(batch, mesh):
    arrays = [jnp.asarray(x, jnp.float32) for x in batch[:4]]
    config = LossConfig(matryoshka_dims=DIMS)
    expected = matryoshka(LOSSES["softmax"][0], DIMS)(*arrays)
    for form in ("plain", "ring"):
        loss = make_loss(dataclasses.replace(config, form=form), mesh)
        # Three losses in float32, each with a few roundings of logits of at most 10.
        np.testing.assert_allclose(loss(*arrays), expected, rtol=1e-5)


def test_dims_and_weights_belong_together():
    with pytest.raises(ValueError, match=r"dims=\(2, 4\) need one positive weight each"):
        matryoshka(LOSSES["softmax"][0], (2, 4), (1.0,))
