"""Crop and resize of whole canvases on the device, as two matrix products for each image.

The host decodes into canvases of one size; which part is seen, and the antialiased filter, are
matrices [side, canvas] that the device builds from four numbers an image.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

_A = -0.5
_SUPPORT = 2.0


def crop_and_resize(
    canvases: UInt8[Array, "batch canvas canvas 3"] | Float[Array, "batch canvas canvas 3"],
    boxes: Float[Array, "batch 4"],
    side: int,
    *,
    bounds: Float[Array, "batch 4"] | None = None,
    rounded: bool = True,
    products: Literal["bfloat16", "float32"] = "bfloat16",
) -> UInt8[Array, "batch {side} {side} 3"] | Float[Array, "batch {side} {side} 3"]:
    """Returns the boxes, resized by Pillow's antialiased bicubic filter.

    Every image is computed from its own row alone, so a batch that is split over devices stays so.
    Two products, the horizontal one first: 2 * 3 * side * canvas * (canvas + side) FLOPs an image.
    Held for each image: the canvas in the type of `products`, 3 * side * canvas values between the
    products, and 2 * side * canvas weights.

    A canvas is exact in bfloat16 (8 bits); the weights are divided by the sum of their rounded
    values, so that a plain area keeps its value. Between the products values are rounded to whole
    numbers in 0 to 255, as in Pillow, which makes them exact too. (Pillow 13 takes some tall boxes
    vertically first, and then rounds other values than these.)

    Args:
        canvases: images in the top left corner of squares, values in 0 to 255; the rest is never
            read.
        boxes: left, top, right, bottom in canvas pixels; fractions are allowed. An empty box gives
            black.
        side: height and width of the result in pixels.
        bounds: the part that may be read, like `boxes`. The box itself if None: the result is that
            of Pillow's `crop(box).resize(...)`, as in torchvision's RandomResizedCrop. With the
            bounds of the image it is that of `resize(..., box=box)`, which reads beyond the box.
        rounded: to uint8; otherwise float32 in 0 to 255.
        products: type of the factors; sums are float32.

    Source: Keys 1981, "Cubic convolution interpolation for digital image processing", equation 15,
    doi:10.1109/TASSP.1981.1163711; widened when it shrinks, as in Pillow,
    https://pillow.readthedocs.io/en/stable/handbook/concepts.html#filters.
    """
    bounds = boxes if bounds is None else bounds
    dtype = jnp.dtype(products)
    size = canvases.shape[1]
    rows, row_sums = _weights(boxes[:, 1::2], bounds[:, 1::2], side, size, dtype)
    columns, column_sums = _weights(boxes[:, ::2], bounds[:, ::2], side, size, dtype)
    x = _product("btx,byxc->bytc", columns, canvases.astype(dtype))
    x = _whole(x / column_sums[:, None, :, None]).astype(dtype)
    x = _product("bsy,bytc->bstc", rows, x) / row_sums[:, :, None, None]
    return _whole(x).astype(jnp.uint8) if rounded else jnp.clip(x, 0.0, 255.0)


def _product(axes: str, weights: Array, values: Array) -> Array:
    exact = jax.lax.Precision.HIGHEST if weights.dtype == jnp.float32 else None
    return jnp.einsum(
        axes, weights, values, precision=exact, preferred_element_type=jnp.dtype("float32")
    )


def _whole(x: Array) -> Array:
    return jnp.clip(jnp.floor(x + 0.5), 0.0, 255.0)


def _weights(
    ends: Array, bounds: Array, side: int, size: int, dtype: jnp.dtype
) -> tuple[Float[Array, "batch side size"], Float[Array, "batch side"]]:
    """Returns the weight of every canvas pixel in every pixel of the result, and their sums.

    Args:
        ends: [batch, 2], where the box begins and ends on this axis.
        bounds: [batch, 2], likewise the part that may be read.
        side: pixels of the result.
        size: pixels of the canvas.
        dtype: that the weights are rounded to.
    """
    first, last = ends[:, 0, None, None], ends[:, 1, None, None]
    scale = (last - first) / side
    widened = jnp.maximum(scale, 1.0)
    centres = first + (jnp.arange(side, dtype=jnp.float32)[:, None] + 0.5) * scale
    pixels = jnp.arange(size, dtype=jnp.float32)
    weights = _bicubic((pixels + 0.5 - centres) / widened)
    low, high = jnp.floor(bounds[:, 0, None, None]), jnp.ceil(bounds[:, 1, None, None])
    weights = jnp.where((low <= pixels) & (pixels < high), weights, 0.0) / widened
    if dtype == jnp.bfloat16:
        # A cast there and back may be optimised away; this may not.
        weights = jax.lax.reduce_precision(weights, exponent_bits=8, mantissa_bits=7)
    sums = weights.sum(axis=-1)
    return weights.astype(dtype), jnp.where(sums == 0.0, 1.0, sums)


def _bicubic(x: Array) -> Array:
    x = jnp.abs(x)
    near = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1.0
    far = _A * (((x - 5.0) * x + 8.0) * x - 4.0)
    return jnp.where(x < 1.0, near, jnp.where(x < _SUPPORT, far, 0.0))
