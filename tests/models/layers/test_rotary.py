import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models.layers.rotary import (
    Rotary,
    rotary_1d,
    rotary_2d,
    taken,
    turned,
    unturned_before,
)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def angles(rotary):
    return np.arctan2(rotary.sin, rotary.cos)


def wrapped(x):
    return np.angle(np.exp(1j * np.asarray(x)))


def test_neighbouring_channels_are_a_complex_number_that_is_turned():
    x, rotary = drawn(2, 5, 3, 8), rotary_1d(5, 8, 100.0)
    z = x[..., 0::2].astype(np.float64) + 1j * x[..., 1::2]
    z = z * np.exp(1j * np.arange(5)[:, None] * 100.0 ** (-np.arange(4) / 4))[:, None]
    out = np.asarray(turned(jnp.asarray(x), rotary))
    np.testing.assert_allclose(out[..., 0::2], z.real, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out[..., 1::2], z.imag, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("distance", [0, 1, 7])
def test_a_product_of_turned_vectors_depends_on_the_distance_only(distance):
    query, key = drawn(1, 1, 1, 8), drawn(1, 1, 1, 8, seed=1)
    rotary = rotary_1d(20, 8, 10_000.0)

    def at(x, place):
        row = slice(place, place + 1)
        return turned(jnp.asarray(x), Rotary(cos=rotary.cos[row], sin=rotary.sin[row])).ravel()

    products = [float(at(query, i) @ at(key, i + distance)) for i in range(12)]
    np.testing.assert_allclose(products, products[0], rtol=1e-5, atol=1e-5)
    if distance == 0:
        assert products[0] == pytest.approx(float(query.ravel() @ key.ravel()), abs=1e-5)


def test_half_of_the_pairs_turn_with_the_row_and_half_with_the_column():
    """By hand: 2 x 3 patches, heads of 8 channels, frequencies 1 and 1 / 100."""
    found = angles(rotary_2d(2, 3, 8))
    rows, columns = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2])
    expected = np.stack([rows, rows / 100, columns, columns / 100], axis=1)
    np.testing.assert_allclose(found, wrapped(expected), atol=1e-6)


def test_a_larger_grid_is_squeezed_onto_the_one_of_training():
    """Every second patch of 4 x 8 stands where a patch of 2 x 4 stands, both seen as 2 x 2."""
    small = rotary_2d(2, 4, 8, grid=2).cos.reshape(2, 4, 4)
    large = rotary_2d(4, 8, 8, grid=2).cos.reshape(4, 8, 4)
    np.testing.assert_allclose(large[::2, ::2], small, atol=1e-6)
    same = rotary_2d(3, 3, 8, grid=3)
    np.testing.assert_array_equal(same.sin, rotary_2d(3, 3, 8).sin)


def test_tokens_in_front_are_not_turned():
    x = jnp.asarray(drawn(2, 6, 1, 8))
    rotary = rotary_2d(2, 2, 8)
    out = turned(x, unturned_before(rotary, 2))
    np.testing.assert_array_equal(out[:, :2], x[:, :2])
    np.testing.assert_array_equal(out[:, 2:], turned(x[:, 2:], rotary))


def test_patches_that_are_kept_keep_their_turns():
    x, rotary = jnp.asarray(drawn(2, 4, 3, 8)), rotary_2d(2, 2, 8)
    places = jnp.asarray([[1, 3], [0, 2]])
    kept = jnp.take_along_axis(x, places[..., None, None], axis=1)
    expected = jnp.take_along_axis(turned(x, rotary), places[..., None, None], axis=1)
    np.testing.assert_array_equal(turned(kept, taken(rotary, places)), expected)
    behind = turned(jnp.pad(kept, ((0, 0), (1, 0), (0, 0), (0, 0))), unturned_before(
        taken(rotary, places), 1
    ))  # fmt: skip
    np.testing.assert_array_equal(behind[:, 1:], expected)


def test_a_turn_is_rounded_once():
    """A sine rounded to bfloat16 would place far tokens elsewhere."""
    x, rotary = jnp.asarray(drawn(1, 50, 1, 16), jnp.bfloat16), rotary_1d(50, 16, 10_000.0)
    exact = turned(x.astype(jnp.float32), rotary)
    assert turned(x, rotary).dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned(x, rotary), exact.astype(jnp.bfloat16))
