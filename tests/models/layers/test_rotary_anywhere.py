import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models.layers.rotary import (
    rotary_1d,
    rotary_2d,
    rotary_at,
    taken,
    turned,
    unturned_before,
)


def test_turns_are_the_formula_number_by_number():
    rotary = rotary_2d(2, 3, 8)
    assert rotary.cos.shape == (6, 4)
    for row in range(2):
        for column in range(3):
            angles = [row, row * 10_000**-0.5, column, column * 10_000**-0.5]
            np.testing.assert_allclose(rotary.cos[3 * row + column], np.cos(angles), atol=1e-6)
            np.testing.assert_allclose(rotary.sin[3 * row + column], np.sin(angles), atol=1e-6)


def test_a_grid_of_another_size_is_stretched_to_the_one_of_training():
    stretched, fine = rotary_2d(2, 4, 8, grid=8), rotary_2d(8, 8, 8)
    places = [8 * r + c for r in (0, 4) for c in (0, 2, 4, 6)]
    np.testing.assert_allclose(stretched.cos, fine.cos[places], atol=1e-6)
    np.testing.assert_allclose(stretched.sin, fine.sin[places], atol=1e-6)


def test_patches_anywhere_turn_like_those_of_the_grid_with_their_place():
    grid = rotary_2d(30, 40, 16)
    places = np.random.default_rng(0).integers(0, 30, (3, 7, 2))
    at = jax.jit(rotary_at, static_argnums=1)(places, 16)
    flat = 40 * places[..., 0] + places[..., 1]
    np.testing.assert_allclose(at.cos, grid.cos[flat], atol=1e-5)
    np.testing.assert_allclose(at.sin, grid.sin[flat], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_padding_may_be_anywhere(dtype):
    at = rotary_at(jnp.full((1, 1, 2), np.iinfo(dtype).min, dtype), 8)
    assert np.isfinite(at.cos).all()
    assert np.isfinite(at.sin).all()


def test_scores_depend_on_the_distance_only():
    """The reason for it all: query at 3 and key at 5 is query at 10 and key at 12."""
    rng = np.random.default_rng(0)
    query, key = jnp.asarray(rng.normal(size=(2, 1, 1, 1, 8)), jnp.float32)
    rotary = rotary_1d(20, 8, 10_000.0)

    def score(at, to):
        one, other = (
            turned(x, taken(rotary, jnp.array([[i]]))) for x, i in ((query, at), (key, to))
        )
        return float((one * other).sum())

    assert score(3, 5) == pytest.approx(score(10, 12), rel=1e-4)
    assert abs(score(3, 5) - score(5, 3)) > 1e-3
    assert score(4, 4) == pytest.approx(float((query * key).sum()), rel=1e-5)


def test_a_turn_keeps_the_length_and_the_identity_leaves_all():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3, 8)), jnp.float32)
    out = turned(x, rotary_2d(2, 3, 8))
    np.testing.assert_allclose(np.linalg.norm(out, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(out[:, 0], x[:, 0])
    assert np.abs(out[:, 1:] - x[:, 1:]).max() > 0.1


@pytest.mark.parametrize("batched", [False, True])
def test_tokens_in_front_do_not_turn_and_taken_ones_keep_their_turn(batched):
    places = jnp.stack([jnp.argwhere(jnp.ones((2, 3)))] * 2)
    rotary = rotary_at(places, 8) if batched else rotary_2d(2, 3, 8)
    keep = jnp.array([[0, 4], [2, 5]])
    grid = rotary_2d(2, 3, 8)
    some = taken(rotary, keep)
    np.testing.assert_allclose(some.cos, grid.cos[keep], atol=1e-6)
    np.testing.assert_allclose(some.sin, grid.sin[keep], atol=1e-6)
    front = unturned_before(some, 2)
    assert front.cos.shape == (2, 4, 4)
    assert (np.asarray(front.cos[:, :2]) == 1).all()
    assert (np.asarray(front.sin[:, :2]) == 0).all()
    np.testing.assert_array_equal(front.sin[:, 2:], some.sin)
