"""Two towers and the scale of their similarities, Radford et al. 2021, figure 3."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32, Key, UInt8

from clipjax.config import DualEncoderConfig
from clipjax.config.errors import UsageError
from clipjax.core.partition import constrain_batch
from clipjax.models.bert import Bert
from clipjax.models.convnet import ConvNet
from clipjax.models.efficientnet import EfficientNet
from clipjax.models.patches import Patches
from clipjax.models.text import TextTransformer
from clipjax.models.vit import ViT

IMAGE_TOWERS: dict[str, Any] = {
    "vit": ViT,
    "convnet": ConvNet,
    "efficientnet": EfficientNet,
}
TEXT_TOWERS: dict[str, Any] = {"transformer": TextTransformer, "bert": Bert}

Embeds = Float[Array, "batch embed"]


class DualEncoder(nnx.Module):
    """Maps images and texts to unit vectors of one space.

    Attributes:
        log_logit_scale: logarithm of what multiplies the cosine similarities.
        log_logit_scale_rest: what float32 has no room for in the logarithm of a temperature that
            was read; only with `exact_temperature`. Too small to change a logit.
        logit_bias: what is added after it; only with `init_logit_bias`.
    """

    def __init__(self, config: DualEncoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        image, text = IMAGE_TOWERS[config.image.kind], TEXT_TOWERS[config.text.kind]
        self.image = image(config.image, config.embed_dim, compute=config.compute, rngs=rngs)
        self.text = text(config.text, config.embed_dim, compute=config.compute, rngs=rngs)
        # With a dtype: a weakly typed scalar would compile the training step twice.
        scale = jnp.array(math.log(config.init_logit_scale), jnp.float32)
        self.log_logit_scale = nnx.Param(scale, axes=())
        if config.exact_temperature:
            self.log_logit_scale_rest = nnx.BatchStat(jnp.zeros((), jnp.float32), axes=())
        if config.init_logit_bias is not None:
            self.logit_bias = nnx.Param(jnp.array(config.init_logit_bias, jnp.float32), axes=())

    def encode_image(
        self,
        images: UInt8[Array, "batch height width 3"]
        | Float[Array, "batch height width 3"]
        | Patches,
        train_key: Key[Array, ""] | None = None,
    ) -> Embeds:
        """Returns unit vectors, float32.

        Args:
            images: values in [0, 255]; normalised here by the config's mean and deviation. Square
                images, or patches of images of any shape for a Vision Transformer.
            train_key: of this step, in training: patches are dropped, batch norm takes the
                statistics of the batch. None otherwise.

        Raises:
            UsageError: if the tower cannot read patches.
        """
        if not isinstance(images, Patches):
            return _unit(self.image(self._normalised(images), train_key))
        if self.config.image.kind != "vit":
            raise UsageError(
                f"model.image.kind={self.config.image.kind!r} takes square images, not patches: "
                "only 'vit' can read data.image_mode='naflex'."
            )
        values = images.values.reshape(*images.values.shape[:2], -1, 3)
        values = self._normalised(values).reshape(images.values.shape)
        return _unit(self.image(dataclasses.replace(images, values=values), train_key))

    def _normalised(self, pixels: Array) -> Float[Array, "..."]:
        mean = 255 * jnp.array(self.config.pixel_mean, jnp.float32)
        std = 255 * jnp.array(self.config.pixel_std, jnp.float32)
        return (pixels.astype(jnp.float32) - mean) / std

    def encode_text(self, tokens: Int32[Array, "batch tokens"]) -> Embeds:
        """Returns unit vectors, float32."""
        return _unit(self.text(tokens))


def _unit(x: Embeds) -> Embeds:
    x = constrain_batch(x.astype(jnp.float32))
    # rsqrt of the clamped square keeps the gradient of a zero vector finite.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
