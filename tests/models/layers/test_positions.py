import math

import numpy as np
import pytest

from clipjax.models.layers.positions import sincos2d


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
