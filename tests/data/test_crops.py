import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.crops import center_crop, random_resized_crop
from clipjax.data.keyed import uniforms

SIDES = st.integers(1, 3000)


@st.composite
def ranges(draw, low, high):
    first, second = draw(st.floats(low, high)), draw(st.floats(low, high))
    return min(first, second), max(first, second)


@settings(deadline=None, max_examples=300)
@given(SIDES, SIDES, ranges(0.01, 1.0), ranges(0.2, 5.0), st.integers(0, 2**32))
def test_boxes_are_not_empty_and_lie_inside(width, height, scale, ratio, seed):
    left, top, right, bottom = random_resized_crop(
        uniforms(seed, 0, 0, 40), width, height, scale, ratio
    )
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@settings(deadline=None, max_examples=100)
@given(st.integers(200, 2000), st.integers(200, 2000), st.integers(0, 2**32))
def test_area_and_aspect_stay_in_their_ranges_up_to_half_a_pixel(width, height, seed):
    """The box that stands in when nothing fits promises an aspect, but no area."""
    scale, ratio = (0.05, 0.2), (3 / 4, 4 / 3)
    left, top, right, bottom = random_resized_crop(
        uniforms(seed, 1, 0, 40), width, height, scale, ratio
    )
    w, h = right - left, bottom - top
    assert (w - 0.5) / (h + 0.5) <= ratio[1]
    assert (w + 0.5) / (h - 0.5) >= ratio[0]
    if (w, h) != _fallback(width, height, ratio):
        assert (w - 0.5) * (h - 0.5) <= scale[1] * width * height
        assert (w + 0.5) * (h + 0.5) >= scale[0] * width * height


def _fallback(width, height, ratio):
    if width / height > ratio[1]:
        return round(height * ratio[1]), height
    if width / height < ratio[0]:
        return width, round(width / ratio[0])
    return width, height


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(300, 30, (130, 0, 170, 30)), (30, 300, (0, 130, 30, 170)), (50, 50, (0, 0, 50, 50))],
)
def test_what_never_fits_gives_the_largest_centred_box_of_an_allowed_aspect(
    width, height, expected
):
    """Draws of a whole area with an extreme aspect fail ten times."""
    never = np.tile([1.0 - 1e-9, 0.0, 0.5, 0.5], 10)
    assert random_resized_crop(never, width, height, (0.9, 1.0), (3 / 4, 4 / 3)) == expected


def test_areas_aspects_and_places_have_the_distribution_of_the_definition():
    """In a large square every first draw fits: area uniform, log aspect uniform, place uniform.

    Each mean of 4,000 draws lies within five standard errors, 1/sqrt(12 n) of the range; a pixel of
    1,000 is far below that.
    """
    n, side, scale, ratio = 4000, 1000, (0.1, 0.5), (3 / 4, 4 / 3)
    boxes = np.array(
        [random_resized_crop(uniforms(9, i, 2, 40), side, side, scale, ratio) for i in range(n)]
    )
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    shares = {
        "area": (w * h / side**2 - scale[0]) / (scale[1] - scale[0]),
        "log aspect": np.log(w / h) / (2 * math.log(ratio[1])) + 0.5,
        "left": (boxes[:, 0] + 0.5) / (side - w + 1),
        "top": (boxes[:, 1] + 0.5) / (side - h + 1),
    }
    for name, share in shares.items():
        assert abs(share.mean() - 0.5) < 5 / math.sqrt(12 * n), name
        counts = np.histogram(share, bins=10, range=(0, 1))[0]
        assert ((counts - n / 10) ** 2 / (n / 10)).sum() < 9 + 6 * math.sqrt(18), name


def test_draws_fix_the_box():
    """Share 0.25 of 400 x 400 with aspect 1 is 200 x 200; place draws 0.5 of 201 places."""
    draws = np.tile([0.5, 0.5, 0.5, 0.0], 10)
    box = random_resized_crop(draws, 400, 400, (0.2, 0.3), (1 / 2, 2.0))
    assert box == (100, 0, 300, 200)


def test_the_box_reaches_both_edges():
    """The last of the 201 places belongs to the largest draws."""
    draws = np.tile([0.5, 0.5, 1 - 2**-53, 0.0], 10)
    assert random_resized_crop(draws, 400, 400, (0.2, 0.3), (1 / 2, 2.0)) == (200, 0, 400, 200)


@given(SIDES, SIDES)
def test_the_centre_is_the_largest_square_and_off_by_at_most_half_a_pixel(width, height):
    left, top, right, bottom = center_crop(width, height)
    assert right - left == bottom - top == min(width, height)
    assert abs(left + right - width) <= 1
    assert abs(top + bottom - height) <= 1
    assert left >= 0 <= top
    assert right <= width
    assert bottom <= height
