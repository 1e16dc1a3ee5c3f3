"""RandAugment of one image on the device: a few operations drawn from fourteen.

Which operation an image gets is known only on the device. The geometric ones are one affine warp
whose matrix depends on the draw. Of the ones on pixels a batch (`jax.vmap`) computes all for every
image and keeps one: per layer a gather of every pixel, some twenty passes over the elements, and
for `equalise` about 1,024 FLOPs a value in small matrix products, 3 * 1,024 * side**2 an image.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from clipjax.train.colour import Image, blend, luma

OPERATIONS = (
    "identity",
    "auto_contrast",
    "equalise",
    "rotate",
    "posterize",
    "solarize",
    "colour",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
MAX_MAGNITUDE = 30
_OUTSIDE = 128.0
_MOST_ENHANCED = 0.9
_MOST_SHEAR = 0.3
_MOST_TURNED_DEGREES = 30.0
_MOST_MOVED = 150 / 331
_MOST_BITS_LOST = 4


def rand_augment(image: Image, key: jax.Array, layers: int, magnitude: int) -> Image:
    """Returns the image after `layers` operations, each drawn anew, all of one strength.

    The strengths are those of torchvision's RandAugment with 31 bins. What a warp moves in from
    outside is grey (128), and the nearest pixel is taken.

    Args:
        image: values in 0 to 255.
        key: typed PRNG key of this image.
        layers: number of operations.
        magnitude: 0 to `MAX_MAGNITUDE`.

    Source: Cubuk et al. 2019, section 3 and figure 2, https://arxiv.org/abs/1909.13719.
    """

    def layer(image: Image, key: jax.Array) -> tuple[Image, None]:
        operation_key, sign_key = jax.random.split(key)
        operation = jax.random.randint(operation_key, (), 0, len(OPERATIONS))
        sign = jnp.where(jax.random.bernoulli(sign_key), 1.0, -1.0)
        return apply_operation(image, operation, sign * magnitude / MAX_MAGNITUDE), None

    return jax.lax.scan(layer, image, jax.random.split(key, layers))[0]


def apply_operation(image: Image, operation: Int[Array, ""], level: Float[Array, ""]) -> Image:
    """Returns the image after one operation.

    Args:
        image: values in 0 to 255.
        operation: place in `OPERATIONS`.
        level: strength in -1 to 1; operations without a direction take its absolute value.
    """
    height, width, _ = image.shape
    image = _warp(image, _affine(operation, level, height, width))
    branches = [_unchanged, *_ON_PIXELS.values()]
    branch_of = [
        1 + list(_ON_PIXELS).index(name) if name in _ON_PIXELS else 0 for name in OPERATIONS
    ]
    return jax.lax.switch(jnp.array(branch_of)[operation], branches, image, level)


def _affine(operation: Array, level: Array, height: int, width: int) -> Float[Array, "2 3"]:
    """Returns the matrix from the place of a pixel of the result to its place in the image.

    Places are x, y from the top left corner, the centre of the first pixel being at 0.5, 0.5.
    """
    one, zero = jnp.ones(()), jnp.zeros(())
    shear = _MOST_SHEAR * level
    angle = jnp.deg2rad(_MOST_TURNED_DEGREES * level)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    moved_x = jnp.trunc(_MOST_MOVED * width * level)
    moved_y = jnp.trunc(_MOST_MOVED * height * level)
    matrices = {
        "identity": (one, zero, zero, zero, one, zero),
        "rotate": (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y),
        "shear_x": (one, shear, zero, zero, one, zero),
        "shear_y": (one, zero, zero, shear, one, zero),
        "translate_x": (one, zero, -moved_x, zero, one, zero),
        "translate_y": (one, zero, zero, zero, one, -moved_y),
    }
    table = jnp.array([matrices.get(name, matrices["identity"]) for name in OPERATIONS])
    return table[operation].reshape(2, 3)


def _warp(image: Image, matrix: Float[Array, "2 3"]) -> Image:
    height, width, _ = image.shape
    x = jnp.arange(width) + 0.5
    y = jnp.arange(height)[:, None] + 0.5
    column, row = (
        jnp.floor(along_x * x + along_y * y + start).astype(jnp.int32)
        for along_x, along_y, start in matrix
    )
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    moved = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], moved, _OUTSIDE)


def _unchanged(image: Image, level: Array) -> Image:
    del level
    return image


def _auto_contrast(image: Image, level: Array) -> Image:
    del level
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    span = high - low
    stretched = (image - low) * (255.0 / jnp.where(span > 0, span, 1.0))
    return jnp.where(span > 0, stretched, image)


def _equalise(image: Image, level: Array) -> Image:
    """Spreads the levels of each channel so that they are equally frequent.

    A histogram by scatter and a look-up by gather are slow where they are done one by one. Here a
    level is a pair of one-hot halves: their outer product, summed, is the histogram, and a table
    between them is the look-up: small whole numbers, exact however a device rounds its factors. By
    rows, which bounds the memory.
    """
    del level
    levels = _levels(image)

    def count(total: Array, row: Array) -> tuple[Array, None]:
        high, low = _one_hot_halves(row)
        return total + _sums("wci,wcj->cij", high, low), None

    def look_up(row: Array) -> Array:
        high, low = _one_hot_halves(row)
        return (_sums("wci,cij->wcj", high, table) * low).sum(axis=-1)

    histogram, _ = jax.lax.scan(count, jnp.zeros((3, 16, 16)), levels)
    histogram = histogram.reshape(3, 256).astype(jnp.int32)
    below = jnp.cumsum(histogram, axis=1) - histogram
    brightest = (levels == levels.max(axis=(0, 1))).sum(axis=(0, 1))
    step = ((levels.shape[0] * levels.shape[1] - brightest) // 255)[:, None]
    spread = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
    table = jnp.where(step > 0, spread, jnp.arange(256))
    table = table.reshape(3, 16, 16).astype(jnp.float32)
    return jax.lax.map(look_up, levels)


def _one_hot_halves(levels: Array) -> tuple[Array, Array]:
    return (
        jax.nn.one_hot(levels // 16, 16, dtype=jnp.float32),
        jax.nn.one_hot(levels % 16, 16, dtype=jnp.float32),
    )


def _sums(axes: str, left: Array, right: Array) -> Array:
    return jnp.einsum(axes, left, right, preferred_element_type=jnp.dtype("float32"))


def _levels(image: Image) -> Int[Array, "height width 3"]:
    return jnp.round(image).astype(jnp.int32)


def _posterize(image: Image, level: Array) -> Image:
    lost = jnp.round(_MOST_BITS_LOST * jnp.abs(level)).astype(jnp.int32)
    return ((_levels(image) >> lost) << lost).astype(jnp.float32)


def _solarize(image: Image, level: Array) -> Image:
    threshold = 255.0 * (1.0 - jnp.abs(level))
    return jnp.where(image >= threshold, 255.0 - image, image)


def _colour(image: Image, level: Array) -> Image:
    return blend(luma(image), image, 1.0 + _MOST_ENHANCED * level)


def _contrast(image: Image, level: Array) -> Image:
    return blend(luma(image).mean(), image, 1.0 + _MOST_ENHANCED * level)


def _brightness(image: Image, level: Array) -> Image:
    return blend(jnp.zeros(()), image, 1.0 + _MOST_ENHANCED * level)


def _sharpness(image: Image, level: Array) -> Image:
    """Blends with a mean of the eight neighbours and five times the pixel; the border stays."""
    height, width, _ = image.shape
    if height < 3 or width < 3:
        return image
    near = sum(image[y : y + height - 2, x : x + width - 2] for y in range(3) for x in range(3))
    smooth = image.at[1:-1, 1:-1].set((near + 4.0 * image[1:-1, 1:-1]) / 13.0)
    return blend(smooth, image, 1.0 + _MOST_ENHANCED * level)


_ON_PIXELS: dict[str, Callable[[Image, Array], Image]] = {
    "auto_contrast": _auto_contrast,
    "equalise": _equalise,
    "posterize": _posterize,
    "solarize": _solarize,
    "colour": _colour,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
