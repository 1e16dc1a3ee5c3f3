"""Random changes of the images on the device: a pure function of (seed, step, row)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from clipjax.config import AugmentConfig
from clipjax.train.colour import Image, colour_jitter, luma
from clipjax.train.rand_augment import rand_augment

_FLIP, _SHIFT, _RAND_AUGMENT, _JITTER, _JITTERED, _GREY, _COLOUR, _NOISE = range(8)


def augment(
    images: UInt8[Array, "batch height width 3"], key: jax.Array, config: AugmentConfig
) -> UInt8[Array, "batch height width 3"] | Float[Array, "batch height width 3"]:
    """Returns the images, changed each in its own way; values stay on the scale of 0 to 255.

    What happens to an image depends on `key`, on its row and on its pixels: neither on the other
    images nor on how the batch is split over devices.

    Args:
        images: a whole batch.
        key: typed PRNG key of the step.
        config: what is changed and by how much; nothing at its defaults.
    """
    if not _changes(config):
        return images
    keys = row_keys(key, images.shape[0])
    return jax.vmap(lambda image, key: _augment_one(image, key, config))(images, keys)


def row_keys(key: jax.Array, rows: int) -> jax.Array:
    """Returns the keys of the rows of a batch; that of a row is the same in a longer batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))


def _changes(config: AugmentConfig) -> bool:
    jitters = any(config.colour_jitter) and config.colour_jitter_probability > 0
    amounts = (config.flip, config.shift, config.rand_augment_layers, config.grey_probability)
    return bool(jitters or any(amounts) or config.colour or config.noise)


def _augment_one(
    image: UInt8[Array, "height width 3"], key: jax.Array, config: AugmentConfig
) -> Image:
    def key_of(change: int) -> jax.Array:
        return jax.random.fold_in(key, change)

    x = image.astype(jnp.float32)
    if config.flip:
        x = jnp.where(jax.random.bernoulli(key_of(_FLIP), config.flip), x[:, ::-1], x)
    if config.shift:
        x = _shift(x, key_of(_SHIFT), config.shift)
    if config.rand_augment_layers:
        layers, magnitude = config.rand_augment_layers, config.rand_augment_magnitude
        x = rand_augment(x, key_of(_RAND_AUGMENT), layers, magnitude)
    if any(config.colour_jitter):
        chosen = jax.random.bernoulli(key_of(_JITTERED), config.colour_jitter_probability)
        x = jnp.where(chosen, colour_jitter(x, key_of(_JITTER), config.colour_jitter), x)
    if config.grey_probability:
        chosen = jax.random.bernoulli(key_of(_GREY), config.grey_probability)
        x = jnp.where(chosen, luma(x), x)
    if config.colour:
        x = _colour(x, key_of(_COLOUR), config.colour)
    if config.noise:
        x = x + 127.5 * config.noise * jax.random.normal(key_of(_NOISE), x.shape)
    return x


def _shift(image: Image, key: jax.Array, most: int) -> Image:
    """Moves the image by whole pixels; the border is repeated."""
    height, width, _ = image.shape
    down, right = jax.random.randint(key, (2,), -most, most + 1)
    rows = jnp.clip(jnp.arange(height) + down, 0, height - 1)
    columns = jnp.clip(jnp.arange(width) + right, 0, width - 1)
    return image[rows][:, columns]


def _colour(image: Image, key: jax.Array, strength: float) -> Image:
    """Changes contrast and the gain and offset of each channel, around mid-grey."""
    draws = jax.random.uniform(key, (7,), minval=-1.0, maxval=1.0)
    gain = 1 + strength * (draws[0] + draws[1:4]) / 2
    return (image - 127.5) * gain + 127.5 * (1 + strength * draws[4:])
