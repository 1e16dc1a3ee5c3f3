"""Brightness, contrast, saturation and hue of one image on the scale of 0 to 255.

All are functions of one image; a batch is `jax.vmap` of them. Products are written out by element:
a matrix product would be rounded to bfloat16 on some devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Image = Float[Array, "height width 3"]

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


def luma(image: Image) -> Float[Array, "height width 1"]:
    """Returns what a grey picture shows.

    Source: ITU-R BT.601, section 2.5.1, https://www.itu.int/rec/R-REC-BT.601.
    """
    red, green, blue = image[..., :1], image[..., 1:2], image[..., 2:]
    return 0.299 * red + 0.587 * green + 0.114 * blue


def blend(start: Float[Array, "..."], image: Image, factor: Float[Array, ""]) -> Image:
    """Returns `start` at factor 0, `image` at 1 and what lies beyond above 1; cut to 0 to 255.

    Source: Haeberli and Voorhies 1994, "Image Processing by Linear Interpolation and
    Extrapolation", http://www.graficaobscura.com/interp/index.html.
    """
    return jnp.clip(start + factor * (image - start), 0.0, 255.0)


def turn_hue(image: Image, turns: Float[Array, ""]) -> Image:
    """Moves every colour round the circle of hues; value and saturation of HSV stay.

    Args:
        image: values in 0 to 255.
        turns: 1 / 3 takes red to green.

    Source: Smith 1978, "Color gamut transform pairs", doi:10.1145/800248.807361.
    """
    red, green, blue = image[..., :1], image[..., 1:2], image[..., 2:]
    value = image.max(axis=-1, keepdims=True)
    chroma = value - image.min(axis=-1, keepdims=True)
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    # In sixths of a turn, counted from the primary colour that is strongest.
    hue = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    # How far each channel is from the third of the circle where it is strongest decides its value.
    place = (jnp.array([5.0, 3.0, 1.0]) + hue + 6.0 * turns) % 6.0
    return value - chroma * jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)


def colour_jitter(
    image: Image, key: jax.Array, strengths: tuple[float, float, float, float]
) -> Image:
    """Changes brightness, contrast, saturation and hue, each by its own draw, in random order.

    Factors of the first three are uniform in [1 - strength, 1 + strength], turns of the hue in
    [-strength, strength]. An image's order is known only on the device, so the hue is computed at
    each of the four places and used at one.

    Args:
        image: values in 0 to 255.
        key: typed PRNG key of this image.
        strengths: of brightness, contrast, saturation and hue.

    Source: Chen et al. 2020, SimCLR, appendix A, https://arxiv.org/abs/2002.05709.
    """
    order_key, draw_key = jax.random.split(key)
    draws = jax.random.uniform(draw_key, (4,), minval=-1.0, maxval=1.0) * jnp.array(strengths)

    def change(image: Image, operation: Array) -> tuple[Image, None]:
        return adjust(image, operation, draws[operation], hue=strengths[_HUE] > 0), None

    return jax.lax.scan(change, image, jax.random.permutation(order_key, 4))[0]


def adjust(image: Image, operation: Array, amount: Array, *, hue: bool = True) -> Image:
    """Makes one of the four changes.

    Args:
        image: values in 0 to 255.
        operation: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        amount: what is added to a factor of 1, or the turns of the hue.
        hue: False if the hue never changes, which saves computing it.
    """
    grey = luma(image)
    start = jnp.where(operation == _CONTRAST, grey.mean(), grey)
    start = jnp.where(operation == _BRIGHTNESS, 0.0, start)
    other = turn_hue(image, amount) if hue else image
    return jnp.where(operation == _HUE, other, blend(start, image, 1.0 + amount))
