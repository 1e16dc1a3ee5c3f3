import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from clipjax.train.colour import adjust, blend, colour_jitter, luma, turn_hue

adjust_one = jax.jit(adjust, static_argnames="hue")
turn = jax.jit(turn_hue)
jitter = jax.jit(jax.vmap(colour_jitter, (None, 0, None)), static_argnums=2)

bytes_ = st.integers(0, 255)


@pytest.fixture(scope="module")
def image():
    """Noise, with areas that are grey, black, white and of one colour."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 14, 3)).astype(np.uint8)
    pixels[:2, :2], pixels[:2, 4:6], pixels[4:6, :2], pixels[4:6, 4:6] = 77, 0, 255, (255, 0, 0)
    return pixels


def as_float(image):
    return jnp.asarray(image, jnp.float32)


ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@pytest.mark.parametrize("amount", [-1.0, -0.68, 0.0, 0.32, 1.0])
@pytest.mark.parametrize("operation", range(3))
def test_blends_are_those_of_pillow(image, operation, amount):
    """Pillow rounds its grey values and cuts off the fraction of the result."""
    enhancer = ENHANCERS[operation](Image.fromarray(image))
    expected = np.asarray(enhancer.enhance(1.0 + amount), np.float32)
    out = adjust_one(as_float(image), operation, amount)
    assert np.abs(out - expected).max() < 1 + 0.5 * abs(amount) + 1e-3


def test_luma_is_the_grey_of_pillow(image):
    expected = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    assert np.abs(luma(as_float(image))[..., 0] - expected).max() <= 0.51


def test_blending_is_cut_at_black_and_white(image):
    out = np.asarray(blend(jnp.float32(127.5), as_float(image), jnp.float32(3.0)))
    assert out.min() == 0
    assert out.max() == 255


@given(
    rgb=st.tuples(bytes_, bytes_, bytes_),
    turns=st.floats(-0.5, 0.5, width=32),
)
@example(rgb=(255, 255, 0), turns=0.0)
@example(rgb=(0, 0, 0), turns=0.5)
@example(rgb=(90, 90, 90), turns=-0.5)
@settings(max_examples=100, deadline=None)
def test_hues_are_those_of_the_standard_library(rgb, turns):
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    expected = colorsys.hsv_to_rgb((hue + turns) % 1.0, saturation, value)
    out = turn(as_float([[rgb]]), turns)[0, 0]
    np.testing.assert_allclose(out, 255 * np.array(expected), atol=2e-2)


def test_a_third_of_a_turn_moves_the_channels_on_and_none_moves_nothing(image):
    np.testing.assert_allclose(turn(as_float(image), 1 / 3), image[..., [2, 0, 1]], atol=1e-3)
    np.testing.assert_allclose(turn(as_float(image), 0.0), image, atol=1e-3)


def amounts_of(key, strengths):
    """What the function drew: its order, found by trying, needs the same amounts."""
    _, draw_key = jax.random.split(key)
    return np.asarray(jax.random.uniform(draw_key, (4,), minval=-1.0, maxval=1.0)) * strengths


def test_all_orders_occur_and_every_change_is_made_once(image):
    strengths = (0.8, 0.8, 0.8, 0.4)
    keys = jax.random.split(jax.random.key(3), 48)
    out = np.asarray(jitter(as_float(image), keys, strengths))
    orders = list(itertools.permutations(range(4)))

    def in_order(order, amounts):
        x = as_float(image)
        for place in range(4):
            x = adjust(x, order[place], amounts[order[place]])
        return x

    tried = jax.jit(jax.vmap(in_order, (0, None)))
    found = []
    for key, changed in zip(keys, out, strict=True):
        candidates = tried(jnp.array(orders), jnp.asarray(amounts_of(key, strengths)))
        errors = np.abs(candidates - changed).max(axis=(1, 2, 3))
        assert errors.min() < 1e-2
        found.append(orders[int(errors.argmin())])
    assert {order[0] for order in found} == {order[-1] for order in found} == {0, 1, 2, 3}
    assert len(set(found)) > 12


@pytest.mark.parametrize("operation", range(4))
def test_amounts_fill_their_range_and_do_not_leave_it(operation):
    """Only one strength is not zero; read off the amount from a colour with room to move."""
    strengths = tuple(0.4 if place == operation else 0.0 for place in range(4))
    pixels = as_float([[(100, 60, 80), (80, 100, 60)]])
    keys = jax.random.split(jax.random.key(0), 200)
    out = np.asarray(jitter(pixels, keys, strengths), np.float64)[:, 0]
    grey = np.asarray(luma(pixels), np.float64)[0]
    if operation == 0:
        amounts = out[:, 0, 0] / 100 - 1
    elif operation == 1:
        amounts = (out[:, 0, 0] - grey.mean()) / (100 - grey.mean()) - 1
    elif operation == 2:
        amounts = (out[:, 0, 0] - grey[0, 0]) / (100 - grey[0, 0]) - 1
    else:
        before = colorsys.rgb_to_hsv(100, 60, 80)[0]
        amounts = np.array([colorsys.rgb_to_hsv(*pixel[0])[0] - before for pixel in out])
        amounts = (amounts + 0.5) % 1 - 0.5
    assert np.abs(amounts).max() <= 0.4 + 1e-5
    assert amounts.min() < -0.36
    assert amounts.max() > 0.36
    assert abs(amounts.mean()) < 4 * 0.4 / np.sqrt(3 * 200)


def test_without_a_hue_nothing_is_turned(image):
    out = adjust_one(as_float(image), 3, 0.3, hue=False)
    np.testing.assert_array_equal(out, image)
