"""A part of a resized picture is cut out of what Pillow gives for the whole, byte for byte."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipjax.data import pillow_resize
from clipjax.data.pillow_resize import CAN_SHARE, resized, resized_part

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
CHANNELS = (3, 4) if CAN_SHARE else (3,)
sides = st.integers(1, 90)


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def whole(image, size, method):
    return np.asarray(Image.fromarray(np.ascontiguousarray(image[..., :3])).resize(size, method))


def part(image, size, corner, method, shape):
    out = np.full((*shape, 3), 7, np.uint8)
    resized_part(image, size, corner, method, out)
    return out


@settings(deadline=None)
@given(
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from(CHANNELS),
    st.sampled_from([BICUBIC, BILINEAR]),
    st.integers(0, 99),
)
def test_a_part_is_that_of_the_whole(shape, new, share, channels, method, seed):
    image = noise(*shape, channels, seed)
    height, width = (max(1, round(s * n)) for s, n in zip(share[:2], new, strict=True))
    top, left = (
        round(s * (n - m)) for s, n, m in zip(share[2:], new, (height, width), strict=True)
    )
    found = part(image, new[::-1], (left, top), method, (height, width))
    expected = whole(image, new[::-1], method)
    np.testing.assert_array_equal(found, expected[top : top + height, left : left + width])
    np.testing.assert_array_equal(resized(image, new[::-1], method), expected)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (500, 375, (224, 298)),
        (375, 500, (298, 224)),
        (448, 224, (224, 448)),
        (900, 300, (224, 672)),
    ],
)
def test_the_middle_of_photographs(height, width, size, channels):
    """The last is so tall that new versions of Pillow resize it vertically first."""
    image = noise(height, width, channels)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    found = part(image, size, (left, top), BICUBIC, (224, 224))
    expected = whole(image, size, BICUBIC)[top : top + 224, left : left + 224]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("channels", CHANNELS)
def test_rows_that_pillow_keeps_in_pieces(channels):
    """It allocates 16 MB at a time, and shares no more than that at once."""
    image, size = noise(2500, 2400, channels), (2390, 2490)
    found = part(image, size, (100, 30), BILINEAR, (2400, 64))
    expected = whole(image, size, BILINEAR)[30:2430, 100:164]
    np.testing.assert_array_equal(found, expected)


def test_most_of_a_tall_picture_is_not_resized(monkeypatch):
    """It would be no faster otherwise."""
    seen = []
    make = pillow_resize._picture
    monkeypatch.setattr(
        pillow_resize, "_picture", lambda image: seen.append(image.shape) or make(image)
    )
    part(noise(400, 210), (105, 200), (0, 90), BICUBIC, (20, 105))
    assert seen[0][0] < 60


def test_the_canvas_of_one_picture_does_not_show_in_the_next():
    first, second = noise(120, 70, seed=1), noise(100, 60, seed=2)
    for image in (first, second, first):
        size = (30, round(30 * len(image) / image.shape[1]))
        found = part(image, size, (3, 9), BICUBIC, (20, 25))
        expected = whole(image, size, BICUBIC)[9:29, 3:28]
        np.testing.assert_array_equal(found, expected)
