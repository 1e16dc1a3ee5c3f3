import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from clipjax.train.rand_augment import OPERATIONS, apply_operation, rand_augment

HEIGHT, WIDTH = 40, 48
GREY = (128, 128, 128)
apply_one = jax.jit(apply_operation)


def pictures():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([3 * y + x, 200 - 2 * y, 40 + 3 * x], axis=-1)
    dull = rng.integers(90, 110, (HEIGHT, WIDTH, 3))
    dull[..., 1] = 50
    rare = np.full((HEIGHT, WIDTH, 3), 30)
    rare[3, 4], rare[5, 6] = 200, 10
    return {
        "noise": rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8),
        "smooth": smooth.astype(np.uint8),
        "dull": dull.astype(np.uint8),
        "rare": rare.astype(np.uint8),
    }


PICTURES = pictures()


def apply(name, pixels, level):
    operation = OPERATIONS.index(name)
    return np.asarray(apply_one(jnp.asarray(pixels, jnp.float32), operation, level))


def enhanced(kind):
    return lambda image, level: getattr(ImageEnhance, kind)(image).enhance(1 + 0.9 * level)


def warped(*numbers):
    def transform(image, level):
        matrix = [number(level) if callable(number) else number for number in numbers]
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=GREY
        )

    return transform


PILLOW = {
    "identity": lambda image, level: image,
    "auto_contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalise": lambda image, level: ImageOps.equalize(image),
    "posterize": lambda image, level: ImageOps.posterize(image, 8 - round(4 * abs(level))),
    "solarize": lambda image, level: ImageOps.solarize(image, 255 * (1 - abs(level))),
    "colour": enhanced("Color"),
    "contrast": enhanced("Contrast"),
    "brightness": enhanced("Brightness"),
    "sharpness": enhanced("Sharpness"),
    "rotate": lambda image, level: image.rotate(30 * level, fillcolor=GREY),
    "shear_x": warped(1, lambda level: 0.3 * level, 0, 0, 1, 0),
    "shear_y": warped(1, 0, 0, lambda level: 0.3 * level, 1, 0),
    "translate_x": warped(1, 0, lambda level: -int(150 / 331 * WIDTH * level), 0, 1, 0),
    "translate_y": warped(1, 0, 0, 0, 1, lambda level: -int(150 / 331 * HEIGHT * level)),
}
# Pillow rounds a grey or a smoothed value and cuts off the fraction of the result.
LEVELS_APART = {
    **dict.fromkeys(("auto_contrast", "brightness"), 1.0),
    **dict.fromkeys(("colour", "contrast", "sharpness"), 1.5),
}


@pytest.mark.parametrize("level", [-1.0, -0.3, 0.0, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_pillow(name, level):
    for kind, pixels in PICTURES.items():
        expected = np.asarray(PILLOW[name](Image.fromarray(pixels), level), np.float32)
        apart = np.abs(apply(name, pixels, level) - expected).max(axis=-1)
        if name in ("rotate", "shear_x", "shear_y"):
            # Pillow counts in fixed point: a place at the edge of a pixel may fall to the other.
            assert (apart > 0).mean() < 0.02, kind
        else:
            assert apart.max() <= LEVELS_APART.get(name, 0.0) + 1e-3, kind


def test_the_picture_is_moved_in_the_direction_of_the_level():
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[20, 24] = 255
    moved = int(150 / 331 * WIDTH * 0.5)
    out = apply("translate_x", pixels, 0.5)
    assert out[20, 24 + moved].tolist() == [255, 255, 255]
    assert (out[:, :moved] == 128).all()
    assert (out != 128).sum() == 3 * HEIGHT * (WIDTH - moved)


@pytest.mark.parametrize("name", ["equalise", "auto_contrast"])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_plain_picture_stays(name, value):
    pixels = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
    np.testing.assert_array_equal(apply(name, pixels, 0.3), pixels)


@given(
    seed=st.integers(0, 999),
    levels=st.lists(st.integers(0, 255), min_size=1, max_size=300),
)
@settings(max_examples=40, deadline=None)
def test_equalising_any_histogram_is_that_of_pillow(seed, levels):
    rng = np.random.default_rng(seed)
    pixels = rng.choice(np.array(levels, np.uint8), (HEIGHT, WIDTH, 3))
    expected = ImageOps.equalize(Image.fromarray(pixels))
    np.testing.assert_array_equal(apply("equalise", pixels, 0.0), expected)


def test_a_picture_of_two_pixels_is_not_smoothed_and_too_small_to_equalise():
    pixels = PICTURES["noise"][:2, :2]
    for name in ("sharpness", "equalise"):
        np.testing.assert_array_equal(apply(name, pixels, 0.9), pixels)


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_between_the_levels_stay_on_the_scale(name):
    pixels = np.random.default_rng(1).uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)
    pixels[0, 0], pixels[0, 1] = 0.0, 255.0
    for level in (-1.0, 1.0):
        out = apply(name, pixels, level)
        assert np.isfinite(out).all()
        assert out.min() >= 0
        assert out.max() <= 255.001


SIGNED = (
    "rotate",
    "colour",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)


def test_every_operation_and_both_signs_are_drawn_equally_often():
    """Noise that leaves black and white free: all 14 results, of either sign, are different."""
    pixels = jnp.asarray(np.random.default_rng(2).integers(20, 200, (16, 16, 3)), jnp.float32)
    operations = jnp.tile(jnp.arange(len(OPERATIONS)), 2)
    levels = jnp.repeat(jnp.array([0.3, -0.3]), len(OPERATIONS))
    candidates = np.asarray(
        jax.jit(jax.vmap(apply_operation, (None, 0, 0)))(pixels, operations, levels)
    )
    draw = jax.jit(jax.vmap(lambda key: rand_augment(pixels, key, 1, 9)))
    seen = np.zeros(len(candidates), int)
    for changed in np.asarray(draw(jax.random.split(jax.random.key(0), 560))):
        errors = np.abs(candidates - changed).max(axis=(1, 2, 3))
        assert errors.min() < 1e-2
        seen[errors.argmin()] += 1
    up, down = seen.reshape(2, -1)
    # Five standard deviations of 560 draws of 1 in 14.
    assert np.abs(up + down - 40).max() < 5 * math.sqrt(40 * 13 / 14)
    for name in SIGNED:
        assert min(up[OPERATIONS.index(name)], down[OPERATIONS.index(name)]) > 5, name


def test_layers_are_made_one_after_the_other_with_draws_of_their_own():
    pixels = jnp.asarray(PICTURES["noise"], jnp.float32)
    keys = jax.random.split(jax.random.key(4), 20)
    layers = jax.jit(rand_augment, static_argnums=(2, 3))
    different = 0
    for key in keys:
        first, second = jax.random.split(key, 2)
        operations = [
            int(jax.random.randint(jax.random.split(k)[0], (), 0, len(OPERATIONS)))
            for k in (first, second)
        ]
        signs = [
            1.0 if jax.random.bernoulli(jax.random.split(k)[1]) else -1.0 for k in (first, second)
        ]
        expected = pixels
        for operation, sign in zip(operations, signs, strict=True):
            expected = apply_one(expected, operation, sign * 9 / 30)
        np.testing.assert_allclose(layers(pixels, key, 2, 9), expected, atol=1e-2)
        different += operations[0] != operations[1]
    assert different > 10
