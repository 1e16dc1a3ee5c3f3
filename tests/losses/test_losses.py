"""What holds for every entry of `LOSSES`: definition, invariances, extremes, sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import LossConfig, MeshConfig
from clipjax.core.mesh import make_mesh
from clipjax.losses import LOSSES, Walk, make_loss

KINDS = sorted(LOSSES)
MESHES = {"811": (8, 1, 1), "222": (2, 2, 2), "421": (4, 2, 1)}
GROUPED = pytest.mark.parametrize("grouped", [False, True], ids=["alone", "groups"])
EVERY_ARRAY = (0, 1, 2, 3)

kinds = pytest.mark.parametrize("kind", KINDS)


def mesh_of(sizes):
    data, fsdp, tensor = sizes
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


@functools.cache
def compiled(kind, mesh, form="ring", block=512):
    """Value and gradient, compiled once for all tests: for a mesh, or the reference for None."""
    loss = LOSSES[kind][0]
    if mesh is not None:
        loss = functools.partial(LOSSES[kind][1], walk=Walk(form, mesh, block))
    return jax.jit(jax.value_and_grad(loss, argnums=EVERY_ARRAY))


def numbers(count):
    return np.arange(count, dtype=np.int32)


@kinds
@GROUPED
def test_matches_the_float64_definition(kind, grouped, pairs, definitions):
    groups = np.asarray(pairs.groups) if grouped else numbers(16)
    expected = definitions[kind](pairs.images, pairs.texts, pairs.scale, pairs.bias, groups)
    loss = LOSSES[kind][0](
        pairs.images, pairs.texts, pairs.scale, pairs.bias, pairs.groups if grouped else None
    )
    # 16 terms a row, each with a few roundings of logits of at most 12.
    np.testing.assert_allclose(loss, expected, rtol=16 * np.finfo(np.float32).eps)


@kinds
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 100.0), classes=st.integers(1, 8))
def test_matches_the_float64_definition_for_any_groups(kind, seed, scale, classes, definitions):
    loss = compiled(kind, None)
    rng = np.random.default_rng(seed)
    images, texts = rng.normal(size=(2, 8, 4))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    groups = rng.integers(0, classes, 8).astype(np.int32)
    expected = definitions[kind](images, texts, scale, -1.5, groups)
    with jax.enable_x64(True):
        value, _ = loss(
            jnp.asarray(images),
            jnp.asarray(texts),
            jnp.float64(scale),
            jnp.float64(-1.5),
            jnp.asarray(groups),
        )
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


@kinds
@GROUPED
def test_does_not_depend_on_the_order_of_the_pairs(kind, grouped, pairs):
    loss = LOSSES[kind][0]
    order = np.random.default_rng(2).permutation(16)
    groups = pairs.groups if grouped else None
    shuffled = loss(
        pairs.images[order],
        pairs.texts[order],
        pairs.scale,
        pairs.bias,
        None if groups is None else groups[order],
    )
    straight = loss(pairs.images, pairs.texts, pairs.scale, pairs.bias, groups)
    np.testing.assert_allclose(shuffled, straight, rtol=1e-6)


@kinds
def test_depends_on_which_text_belongs_to_which_image(kind, pairs):
    loss = LOSSES[kind][0]
    straight = loss(pairs.images, pairs.images, pairs.scale, pairs.bias)
    rolled = loss(pairs.images, jnp.roll(pairs.images, 1, axis=0), pairs.scale, pairs.bias)
    assert rolled > straight + 1


@kinds
def test_is_symmetric_in_images_and_texts(kind, pairs):
    loss = LOSSES[kind][0]
    one = loss(pairs.images, pairs.texts, pairs.scale, pairs.bias, pairs.groups)
    other = loss(pairs.texts, pairs.images, pairs.scale, pairs.bias, pairs.groups)
    np.testing.assert_allclose(one, other, rtol=1e-6)


@kinds
def test_groups_of_one_are_no_groups(kind, pairs):
    loss = LOSSES[kind][0]
    distinct = jnp.asarray(np.random.default_rng(3).permutation(16).astype(np.int32)) - 5
    np.testing.assert_allclose(
        loss(pairs.images, pairs.texts, pairs.scale, pairs.bias, distinct),
        loss(pairs.images, pairs.texts, pairs.scale, pairs.bias),
        rtol=1e-6,
    )


@kinds
def test_groups_depend_on_equality_only_not_on_their_numbers(kind, pairs):
    loss = LOSSES[kind][0]
    renamed = (pairs.groups * 1_000_003) ^ 0x5BD1E995
    np.testing.assert_array_equal(
        loss(pairs.images, pairs.texts, pairs.scale, pairs.bias, renamed),
        loss(pairs.images, pairs.texts, pairs.scale, pairs.bias, pairs.groups),
    )


@kinds
@GROUPED
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e4], ids=str)
@pytest.mark.parametrize("arrangement", ["random", "right", "opposite", "collapsed"])
@pytest.mark.parametrize("sharded", [False, True], ids=["reference", "sharded"])
def test_stays_finite_at_extremes(kind, grouped, scale, arrangement, sharded, pairs, mesh):
    """Saturated both ways: all pairs right, all exactly wrong, all embeddings the same."""
    images = pairs.images
    texts = {
        "random": pairs.texts,
        "right": images,
        "opposite": -images,
        "collapsed": jnp.broadcast_to(images[:1], images.shape),
    }[arrangement]
    groups = pairs.groups if grouped else None
    value, grads = compiled(kind, mesh if sharded else None)(
        images, texts, jnp.float32(scale), pairs.bias, groups
    )
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


@kinds
def test_is_near_zero_when_all_pairs_are_right(kind):
    pair = jnp.eye(8)
    bias = jnp.float32(-50.0)
    assert LOSSES[kind][0](pair, pair, jnp.float32(100.0), bias) < 1e-6


@kinds
@GROUPED
@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_sharded_equals_reference_in_value_and_gradient(kind, grouped, sizes, pairs):
    """In float64, where only a wrong formula could differ by more than 1e-12."""
    groups = pairs.groups if grouped else None
    with jax.enable_x64(True):
        arrays = [
            jnp.asarray(np.asarray(x), jnp.float64)
            for x in (pairs.images, pairs.texts, pairs.scale, pairs.bias)
        ]
        expected, expected_grads = compiled(kind, None)(*arrays, groups)
        value, grads = compiled(kind, mesh_of(sizes))(*arrays, groups)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            assert grad.dtype == jnp.float64
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-12, atol=1e-12)


@kinds
@GROUPED
@pytest.mark.parametrize("scale", [10.0, 100.0], ids=str)
def test_sharded_equals_reference_in_float32(kind, grouped, scale, pairs, mesh):
    """Within the roundings of logits of size `scale`, here and at CLIP's largest scale."""
    groups = pairs.groups if grouped else None
    arrays = (pairs.images, pairs.texts, jnp.float32(scale), pairs.bias)
    expected, expected_grads = compiled(kind, None)(*arrays, groups)
    value, grads = compiled(kind, mesh)(*arrays, groups)
    tolerance = 4 * scale * np.finfo(np.float32).eps
    np.testing.assert_allclose(value, expected, rtol=tolerance)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        size = np.abs(expected_grad).max()
        # The gradient of the bias of a softmax is a sum that cancels to zero.
        np.testing.assert_allclose(grad, expected_grad, rtol=tolerance, atol=tolerance * (1 + size))


@kinds
def test_one_device_takes_the_readable_reference(kind, mesh, mesh_222):
    config = LossConfig(kind=kind)
    alone = make_mesh(MeshConfig(), num_devices=1)
    assert make_loss(config, alone).func is LOSSES[kind][0]
    assert make_loss(config, mesh_of((1, 1, 8))).func is LOSSES[kind][0]
    for many in (mesh, mesh_222):
        made = make_loss(config, many)
        assert made.func is LOSSES[kind][1]
        assert made.keywords["walk"] == Walk("ring", many, 512)
