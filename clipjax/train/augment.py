"""Random changes of the images on the device: a pure function of (seed, step)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from clipjax.config import AugmentConfig


def augment(
    images: UInt8[Array, "batch height width 3"], key: jax.Array, config: AugmentConfig
) -> UInt8[Array, "batch height width 3"] | Float[Array, "batch height width 3"]:
    """Returns the images, changed each in its own way; values stay on the scale of 0 to 255.

    Args:
        images: a whole batch.
        key: typed PRNG key of the step.
        config: what is changed and by how much; nothing at its defaults.
    """
    if config == AugmentConfig():
        return images
    flip_key, colour_key, shift_key, noise_key = jax.random.split(key, 4)
    batch = images.shape[0]
    x = images.astype(jnp.float32)
    if config.flip:
        flipped = jax.random.bernoulli(flip_key, config.flip, (batch, 1, 1, 1))
        x = jnp.where(flipped, x[:, :, ::-1], x)
    if config.shift:
        x = _shift(x, shift_key, config.shift)
    if config.colour:
        draws = jax.random.uniform(colour_key, (batch, 1, 1, 7), minval=-1.0, maxval=1.0)
        gain = 1 + config.colour * (draws[..., :1] + draws[..., 1:4]) / 2
        x = (x - 127.5) * gain + 127.5 * (1 + config.colour * draws[..., 4:])
    if config.noise:
        x = x + 127.5 * config.noise * jax.random.normal(noise_key, x.shape)
    return x


def _shift(x: jax.Array, key: jax.Array, most: int) -> jax.Array:
    """Moves each image by whole pixels; the border is repeated."""
    batch, height, width, _ = x.shape
    moves = jax.random.randint(key, (batch, 2), -most, most + 1)
    rows = jnp.clip(jnp.arange(height) + moves[:, :1], 0, height - 1)
    columns = jnp.clip(jnp.arange(width) + moves[:, 1:], 0, width - 1)
    x = jnp.take_along_axis(x, rows[:, :, None, None], axis=1)
    return jnp.take_along_axis(x, columns[:, None, :, None], axis=2)
