import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipjax.config import DataConfig
from clipjax.data.crops import random_resized_crop
from clipjax.data.decode_crop import RandomCrop, decode_crop, shrink_factor, snap

SIDES = st.integers(1, 700)


def jpeg(height, width):
    """Red grows from left to right, green from top to bottom."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, 0 * x], -1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


@settings(deadline=None, max_examples=200)
@given(SIDES, SIDES, st.integers(1, 200))
def test_a_crop_keeps_the_pixels_that_are_asked_for(width, height, side):
    box = (0, 0, width, height)
    factor = shrink_factor(box, side)
    assert factor in (1, 2, 4, 8)
    left, top, right, bottom = snap(box, factor, width, height)
    assert factor == 1 or min(right - left, bottom - top) >= side
    assert (left, top) == (0, 0)
    # The next factor would leave too little.
    assert factor == 8 or min(width, height) < 2 * factor * 1.1 * side


@settings(deadline=None, max_examples=200)
@given(SIDES, SIDES, st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_a_snapped_box_lies_inside_and_near_its_own(width, height, side, seed):
    draws = np.random.default_rng(seed).uniform(size=40)
    box = random_resized_crop(draws, width, height, (0.1, 1.0), (0.5, 2.0))
    factor = shrink_factor(box, side)
    left, top, right, bottom = snap(box, factor, width, height)
    assert 0 <= left < right <= -(-width // factor)
    assert 0 <= top < bottom <= -(-height // factor)
    for ours, own in zip((left, top, right, bottom), box, strict=True):
        assert abs(ours * factor - own) <= 1.5 * factor


@pytest.mark.parametrize("side", [30, 100, 400])
def test_the_side_is_asked_for_each_crop_and_the_content_is_that_of_the_crop(side):
    asked = []

    def side_of(box):
        asked.append(box)
        return side

    def crop(draws, width, height):
        assert (width, height) == (800, 600)
        return 200, 150, 600, 450

    image, box = decode_crop(jpeg(600, 800), np.zeros(40), crop, side_of, 10**6)
    assert asked == [(200, 150, 600, 450)]
    left, top, right, bottom = box
    assert min(right - left, bottom - top) >= min(side, 300)
    assert image.shape[1] == 800 // shrink_factor((200, 150, 600, 450), side)
    part = image[top:bottom, left:right].astype(int)
    np.testing.assert_allclose(part[:, 0, 0].mean(), 255 / 4, atol=5)
    np.testing.assert_allclose(part[:, -1, 0].mean(), 255 * 3 / 4, atol=5)
    np.testing.assert_allclose(part[0, :, 1].mean(), 255 / 4, atol=5)


def test_the_random_crop_is_that_of_the_config():
    config = DataConfig(crop_scale=(0.2, 0.4), crop_ratio=(0.8, 1.2))
    draws = np.random.default_rng(0).uniform(size=40)
    expected = random_resized_crop(draws, 90, 70, (0.2, 0.4), (0.8, 1.2))
    assert RandomCrop(config)(draws, 90, 70) == expected
