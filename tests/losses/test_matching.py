"""Hard partners: their distribution, the streaming draw, and the loss of a matching head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import MeshConfig
from clipjax.core.mesh import make_mesh
from clipjax.losses import Walk, hard_partners, matching_loss, streaming_hard_partners

WALKS = {
    "ring": ("ring", 512, (8, 1, 1)),
    "ring in blocks": ("ring", 2, (2, 2, 2)),
    "chunked in blocks": ("chunked", 4, (2, 2, 2)),
    "alone in blocks": ("ring", 4, (1, 1, 8)),
}


def walk_of(name):
    form, block, (data, fsdp, tensor) = WALKS[name]
    return Walk(form, make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor)), block)


@pytest.fixture(scope="module")
def draws(pairs):
    """Texts for images and images for texts, drawn 4,000 times."""
    keys = jax.random.split(jax.random.key(1), 4_000)
    arrays = pairs.images, pairs.texts, jnp.float32(3.0), pairs.groups
    draw = jax.jit(lambda keys: jax.lax.map(lambda key: hard_partners(*arrays, key), keys))
    return [np.asarray(found) for found in draw(keys)]


@pytest.mark.parametrize("side", [0, 1], ids=["texts of images", "images of texts"])
def test_partners_are_drawn_from_the_softmax_over_other_groups(side, draws, pairs):
    logits = 3.0 * np.asarray(pairs.images, np.float64) @ np.asarray(pairs.texts, np.float64).T
    logits = logits if side == 0 else logits.T
    groups = np.asarray(pairs.groups)
    for row in range(16):
        shares = np.exp(logits[row]) * (groups != groups[row])
        shares /= shares.sum()
        counts = np.bincount(draws[side][:, row], minlength=16)
        assert not counts[groups == groups[row]].any()
        # Chi squared with at most 14 degrees of freedom: above 50 in one of 200,000 rows.
        real = shares > 0
        expected = len(draws[side]) * shares[real]
        assert ((counts[real] - expected) ** 2 / expected).sum() < 50


def test_both_directions_draw_by_themselves(draws):
    """Were the noise shared, a pair that one direction draws the other would draw, too."""
    of_images, of_texts = draws
    back = np.take_along_axis(of_texts, of_images, axis=1) == np.arange(16)
    assert back.mean() < 0.25


@pytest.mark.parametrize("name", WALKS)
def test_the_walk_draws_the_same(name, pairs):
    walk = walk_of(name)
    reference = jax.jit(hard_partners)
    streaming = jax.jit(lambda *args: streaming_hard_partners(*args, walk=walk))
    for seed in range(3):
        arrays = pairs.images, pairs.texts, pairs.scale, pairs.groups, jax.random.key(seed)
        for found, expected in zip(streaming(*arrays), reference(*arrays), strict=True):
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, expected)


def test_where_all_are_of_one_group_nothing_is_drawn(pairs):
    arrays = pairs.images, pairs.texts, pairs.scale, jnp.zeros(16, jnp.int32), jax.random.key(0)
    walk = walk_of("ring in blocks")
    for found in (*hard_partners(*arrays), *streaming_hard_partners(*arrays, walk=walk)):
        np.testing.assert_array_equal(found, -np.ones(16))


def test_the_loss_by_hand():
    """Logits 2 for right pairs, 0 for wrong texts, -1 for wrong images, of which one counts."""
    zero, drawn = jnp.zeros(2), (jnp.array([1, 0]), jnp.array([1, -1]))
    drawn = tuple(place.astype(jnp.int32) for place in drawn)
    loss = matching_loss(zero + 2, zero, zero - 1, drawn)
    expected = 2 * np.log1p(np.exp(-2.0)) + 2 * np.log(2.0) + np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(loss, expected / 5, rtol=1e-6)


def test_the_loss_stays_finite_at_extremes():
    zero, drawn = jnp.zeros(2), (jnp.zeros(2, jnp.int32),) * 2
    value, grads = jax.value_and_grad(matching_loss, argnums=(0, 1, 2))(
        zero - 1e4, zero + 1e4, zero + 1e4, drawn
    )
    np.testing.assert_allclose(value, 1e4, rtol=1e-6)
    assert all(np.isfinite(grad).all() for grad in grads)
