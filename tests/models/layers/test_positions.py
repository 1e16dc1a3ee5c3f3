import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models.layers.positions import resampled, sincos2d


@pytest.mark.parametrize(("height", "width", "dim"), [(2, 3, 8), (7, 7, 64), (1, 1, 12)])
def test_matches_the_formula_number_by_number(height, width, dim):
    out = sincos2d(height, width, dim)
    quarter = dim // 4
    for y in range(height):
        for x in range(width):
            for i in range(quarter):
                omega = 10000 ** (-i / (quarter - 1))
                row = out[y * width + x]
                expected = (
                    math.sin(x * omega),
                    math.cos(x * omega),
                    math.sin(y * omega),
                    math.cos(y * omega),
                )
                np.testing.assert_allclose(row[i::quarter], expected, atol=1e-7)


def test_no_two_places_share_an_embedding():
    rows = sincos2d(14, 14, 32)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + np.eye(len(rows))
    assert distances.min() > 0.1


@pytest.mark.parametrize("grid", [(5, 5), (3, 8), (11, 2), (1, 1), (1, 40), (7, 5)])
def test_resampling_a_table_is_resizing_a_picture(grid):
    """Against jax.image.resize, whose antialiased bilinear filter is written independently."""
    table = np.random.default_rng(0).normal(size=(25, 6)).astype(np.float32)
    rows, columns = grid
    positions = np.stack(np.mgrid[:rows, :columns], -1).reshape(1, -1, 2).astype(np.int16)
    out = resampled(jnp.asarray(table), jnp.asarray(positions), jnp.asarray([grid], jnp.int32))
    expected = jax.image.resize(table.reshape(5, 5, 6), (rows, columns, 6), "bilinear")
    np.testing.assert_allclose(out[0], expected.reshape(-1, 6), atol=1e-5)
    if grid == (5, 5):
        np.testing.assert_array_equal(out[0], table)


def test_resampling_at_impossible_places_stays_finite():
    positions = jnp.asarray([[[-30000, 5], [30000, 30000], [0, 0]]], jnp.int16)
    for grid in ([0, 0], [1, 1], [3, 2]):
        out = resampled(jnp.ones((25, 2)), positions, jnp.asarray([grid], jnp.int32))
        assert np.isfinite(out).all()
