"""Two towers and the scale of their similarities, Radford et al. 2021, figure 3."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from clipjax.config import CappaDecoderConfig, DualEncoderConfig
from clipjax.config.errors import UsageError
from clipjax.core.partition import constrain_batch
from clipjax.models.bert import Bert
from clipjax.models.cappa import CappaDecoder
from clipjax.models.coca import CocaDecoder
from clipjax.models.convnet import ConvNet
from clipjax.models.convnext import ConvNeXt
from clipjax.models.efficientnet import EfficientNet
from clipjax.models.eva import Eva
from clipjax.models.layers.reduction import reduce_in_float32
from clipjax.models.matching import MatchingHead
from clipjax.models.modern_text import ModernText
from clipjax.models.patches import Patches
from clipjax.models.resnet import ResNet
from clipjax.models.self_distill import SelfDistillHeads
from clipjax.models.taps import in_tower, tap
from clipjax.models.text import TextTransformer
from clipjax.models.vit import ViT

IMAGE_TOWERS: dict[str, Any] = {
    "vit": ViT,
    "convnet": ConvNet,
    "resnet": ResNet,
    "convnext": ConvNeXt,
    "efficientnet": EfficientNet,
    "eva": Eva,
}
TEXT_TOWERS: dict[str, Any] = {
    "transformer": TextTransformer,
    "bert": Bert,
    "modern": ModernText,
}
DECODERS: dict[str, Any] = {"coca": CocaDecoder, "cappa": CappaDecoder}

Embeds = Float[Array, "batch embed"]
Images = UInt8[Array, "batch height width 3"] | Float[Array, "batch height width 3"] | Patches
Tokens = Int32[Array, "batch tokens"]
Parallel = Bool[Array, " batch"] | None
Logits = Float[Array, "batch tokens vocab"]


class Captions(NamedTuple):
    """What the loss of captions takes; there are no logits of the whole vocabulary yet.

    Attributes:
        hidden: what stands before the map to the vocabulary.
        kernel: of that map.
        bias: of that map; None for none.
        targets: id that each place predicts.
        counted: which of them count.
    """

    hidden: Float[Array, "batch places channels"]
    kernel: Float[Array, "channels vocab"]
    bias: Float[Array, " vocab"] | None
    targets: Int32[Array, "batch places"]
    counted: Bool[Array, "batch places"]


class Read(NamedTuple):
    """What a network that reads both takes of an image.

    Attributes:
        tokens: of the image tower.
        mask: which of them count; None for all.
    """

    tokens: Float[Array, "batch seen channels"]
    mask: Bool[Array, "batch seen"] | None


class DualEncoder(nnx.Module):
    """Maps images and texts to unit vectors of one space; with a decoder, predicts captions too.

    CoCa's decoder predicts at place t token t + 1, from the image and the tokens up to t; CapPa's
    predicts at place t token t, from the image and the tokens before it, or from the image alone.
    `caption_targets` brings logits and tokens together.

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
        if config.decoder is not None:
            self.decoder = DECODERS[config.decoder.kind](config, rngs=rngs)
        if config.matching is not None:
            self.matching = MatchingHead(config, rngs=rngs)
        if config.self_distill is not None:
            self.self_distill = SelfDistillHeads(config, rngs=rngs)
        if config.compute.reduce_dtype == "float32" and config.compute.dtype != "float32":
            reduce_in_float32(self)

    def encode_image(
        self,
        images: Images,
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
        return self._embedded(in_tower("image", self.image)(self._pixels(images), train_key))

    def image_features(
        self, images: Images, hidden: Bool[Array, "batch patches"] | None = None
    ) -> tuple[Embeds, Float[Array, "batch patches channels"]]:
        """Returns embeddings, not of unit length, and the normed tokens of the patches.

        Args:
            images: as in `encode_image`, square; for a Vision Transformer.
            hidden: patches that are not seen; `self_distill.mask_token` stands for each of them.
        """
        masked = None if hidden is None else (hidden, self.self_distill.mask_token[...])
        embeds, tokens, _ = in_tower("image", self.image.pooled_and_tokens)(
            self._pixels(images), hidden=masked
        )
        return embeds, tokens

    def _pixels(self, images: Images) -> Float[Array, "batch height width 3"] | Patches:
        """Returns what the image tower takes."""
        if not isinstance(images, Patches):
            return self._normalised(images)
        if self.config.image.kind != "vit":
            raise UsageError(
                f"model.image.kind={self.config.image.kind!r} takes square images, not patches: "
                "only 'vit' can read data.image_mode='naflex'."
            )
        values = images.values.reshape(*images.values.shape[:2], -1, 3)
        values = self._normalised(values).reshape(images.values.shape)
        return dataclasses.replace(images, values=values)

    def _normalised(self, pixels: Array) -> Float[Array, "..."]:
        mean = 255 * jnp.array(self.config.pixel_mean, jnp.float32)
        std = 255 * jnp.array(self.config.pixel_std, jnp.float32)
        return (pixels.astype(jnp.float32) - mean) / std

    def encode_text(self, tokens: Tokens) -> Embeds:
        """Returns unit vectors, float32."""
        return self._embedded(in_tower("text", self.text)(tokens))

    def tower_output(self, tower: Literal["image", "text"], x: Images | Tokens) -> Embeds:
        """Returns what a tower says of images or tokens, before it is made a unit vector."""
        if tower == "text":
            return in_tower("text", self.text)(x).astype(jnp.float32)
        return in_tower("image", self.image)(self._pixels(x)).astype(jnp.float32)

    def forward_captioning(
        self,
        images: Images,
        tokens: Tokens,
        train_key: Key[Array, ""] | None = None,
        parallel: Parallel = None,
    ) -> tuple[Embeds, Embeds, Logits]:
        """Returns both embeddings and the logits of the captions; each tower runs once.

        Args:
            images: as in `encode_image`.
            tokens: of the captions, and of the texts.
            train_key: as in `encode_image`.
            parallel: which captions CapPa predicts all at once; none by default.

        Raises:
            UsageError: if the model has no decoder, or cannot predict in parallel.
        """
        image, text, _, hidden = self._decoded(images, tokens, train_key, parallel)
        logits = self.decoder.project(hidden).astype(jnp.float32)
        return image, text, constrain_batch(logits)

    def captioning_inputs(
        self,
        images: Images,
        tokens: Tokens,
        train_key: Key[Array, ""] | None = None,
        parallel: Parallel = None,
    ) -> tuple[Embeds, Embeds, Read, Captions]:
        """Returns both embeddings, what a decoder reads of the image, and what its loss takes.

        Each tower runs once.

        Args:
            images: as in `encode_image`.
            tokens: of the captions, and of the texts.
            train_key: as in `encode_image`.
            parallel: which captions CapPa predicts all at once; none by default.

        Raises:
            UsageError: if the model has no decoder, or cannot predict in parallel.
        """
        image, text, read, hidden = self._decoded(images, tokens, train_key, parallel)
        project = self.decoder.project
        kernel, bias = project.kernel[...], project.bias
        shown, targets, counted = self._targets(hidden, tokens, kernel.shape[1])
        bias = None if bias is None else bias[...]
        return image, text, read, Captions(shown, kernel, bias, targets, counted)

    def matching_inputs(
        self, images: Images, tokens: Tokens, train_key: Key[Array, ""] | None = None
    ) -> tuple[Embeds, Embeds, Read]:
        """Returns both embeddings and what `matching` reads of the image; each tower runs once.

        Args:
            images: as in `encode_image`.
            tokens: of the texts.
            train_key: as in `encode_image`.
        """
        image, *read = in_tower("image", self.image.pooled_and_tokens)(
            self._pixels(images), train_key
        )
        return self._embedded(image), self.encode_text(tokens), Read(*read)

    def matching_logits(self, images: Images, tokens: Tokens) -> Float[Array, " batch"]:
        """Returns the logits that each image and its text belong together, float32.

        Args:
            images: as in `encode_image`.
            tokens: of a text for each image.

        Raises:
            UsageError: if the model has nothing that tells.
        """
        if self.config.matching is None:
            raise UsageError("model.matching is not set: this model does not match pairs.")
        _, *read = in_tower("image", self.image.pooled_and_tokens)(self._pixels(images))
        return self.matching(tokens, *read)

    def _decoded(
        self, images: Images, tokens: Tokens, train_key: Key[Array, ""] | None, parallel: Parallel
    ) -> tuple[Embeds, Embeds, Read, Float[Array, "batch tokens channels"]]:
        kind = self._decoder_kind(parallel)
        image, image_tokens, mask = in_tower("image", self.image.pooled_and_tokens)(
            self._pixels(images), train_key
        )
        if kind == "cappa":
            text = in_tower("text", self.text)(tokens)
            hidden = self.decoder.hidden(tokens, image_tokens, mask, parallel)
        else:
            text, text_tokens = in_tower("text", self.text.pooled_and_tokens)(tokens)
            hidden = self.decoder.hidden(text_tokens, image_tokens, mask)
        return self._embedded(image), self._embedded(text), Read(image_tokens, mask), hidden

    def caption_logits(
        self,
        images: Images,
        tokens: Tokens,
        train_key: Key[Array, ""] | None = None,
        parallel: Parallel = None,
    ) -> Logits:
        """Returns the logits of the captions, float32; see the class for what stands where.

        Args:
            images: as in `encode_image`.
            tokens: of the captions.
            train_key: as in `encode_image`.
            parallel: which captions CapPa predicts all at once; none by default.

        Raises:
            UsageError: if the model has no decoder, or cannot predict in parallel.
        """
        return self.forward_captioning(images, tokens, train_key, parallel)[2]

    def caption_targets(
        self, logits: Logits, tokens: Tokens
    ) -> tuple[
        Float[Array, "batch places vocab"],
        Int32[Array, "batch places"],
        Bool[Array, "batch places"],
    ]:
        """Returns logits, the tokens that they predict, and which of these count.

        Padding does not, nor does an id that the decoder has no logit for.

        Args:
            logits: of `caption_logits` or `forward_captioning`.
            tokens: that these were given.
        """
        return self._targets(logits, tokens, logits.shape[-1])

    def _targets(
        self, shown: Float[Array, "batch tokens channels"], tokens: Tokens, ids: int
    ) -> tuple[
        Float[Array, "batch places channels"],
        Int32[Array, "batch places"],
        Bool[Array, "batch places"],
    ]:
        if self._decoder_kind(None) == "coca":
            shown, tokens, pad_id = shown[:, :-1], tokens[:, 1:], self.config.text.pad_id
        else:
            assert isinstance(self.config.decoder, CappaDecoderConfig)
            pad_id = self.config.decoder.pad_id
        return shown, jnp.minimum(tokens, ids - 1), (tokens != pad_id) & (tokens < ids)

    def _decoder_kind(self, parallel: Parallel) -> str:
        decoder = self.config.decoder
        if decoder is None:
            raise UsageError("model.decoder is not set: this model does not predict captions.")
        if parallel is not None and decoder.kind != "cappa":
            raise UsageError(
                f"model.decoder.kind={decoder.kind!r} predicts captions token by token; only "
                "'cappa' can predict them in parallel."
            )
        return decoder.kind

    def _embedded(self, x: Embeds) -> Embeds:
        """Returns what a tower says as unit vectors; where all is negative, the sparse head's is 0.

        The gradient of a zero vector is finite.
        """
        x = constrain_batch(x.astype(jnp.float32))
        if self.config.head.kind == "sparse_relu":
            x = jax.nn.relu(x)
        # rsqrt of the clamped square keeps the gradient of a zero vector finite.
        x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
        return tap("shared/embed", x)
