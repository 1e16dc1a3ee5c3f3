"""A Vision Transformer taken apart: its embedding as a sum of what each part adds to it.

The residual stream is a sum, and what follows it (the last LayerNorm, the pooling, the projection)
is linear once the deviation that the norm divides by is taken as a constant of the image.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits",
https://transformer-circuits.pub/2021/framework; Gandelsman et al. 2024, section 3,
https://arxiv.org/abs/2310.05916 (for CLIP).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from clipjax.config import DualEncoderConfig, UserError, ViTConfig
from clipjax.core.stacks import unstacked
from clipjax.models.dual_encoder import DualEncoder
from clipjax.models.layers.block import ACTIVATIONS, Block
from clipjax.models.layers.rotary import Rotary, turned
from clipjax.models.vit import ViT

Tokens = Float[Array, "batch tokens width"]
Weights = Float[Array, "batch tokens"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerParts:
    """What one block did with a batch.

    Attributes:
        deviation: that the norm before the attention divided each token by.
        attention: how much each token reads of each, by head; rows sum to 1.
        mixed: what each head reads, before its map to the stream.
        hidden: units of the MLP, after their activation.
    """

    deviation: Weights
    attention: Float[Array, "batch heads tokens seen"]
    mixed: Float[Array, "batch tokens heads channels"]
    hidden: Float[Array, "batch tokens units"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """All blocks of a tower, and how the stream becomes the embedding.

    The embedding, before it is of unit length, is `weights` @ stream @ `readout` + `constant`.

    Attributes:
        first: the stream before the first block.
        layers: what each block did.
        weights: of the tokens in the embedding; the deviation of the last norm is in them.
        embeds: the embedding.
    """

    first: Tokens
    layers: tuple[LayerParts, ...]
    weights: Weights
    embeds: Float[Array, "batch embed"]

    def pooled(self, stream: Tokens) -> Float[Array, "batch width"]:
        """Returns the weighted sum over tokens of something that was added to the stream."""
        return jnp.einsum("bt,btw->bw", self.weights, stream)


def in_plain_form(
    config: DualEncoderConfig, params: Mapping[str, Any]
) -> tuple[DualEncoderConfig, dict[str, Any]]:
    """Returns the same model in float32 with its blocks one by one, to be taken apart.

    Args:
        config: of the model.
        params: of the model, by name.

    Raises:
        UserError: if its image tower is none whose embedding is such a sum.
    """
    image_tower(config)
    compute = dataclasses.replace(
        config.compute,
        dtype="float32",
        reduce_dtype=None,
        attention="xla",
        remat="none",
        scan_layers=False,
    )
    plain = dataclasses.replace(config, compute=compute)
    if not config.compute.scan_layers:
        return plain, dict(params)
    named = unstacked((name, np.asarray(array)) for name, array in params.items())
    return plain, {name: jnp.asarray(array) for name, array in named}


def image_tower(config: DualEncoderConfig) -> ViTConfig:
    """Returns the config of an image tower whose embedding is a sum over heads and MLPs.

    Raises:
        UserError: if it is none, naming what is in the way.
    """
    image = config.image
    if not isinstance(image, ViTConfig):
        raise UserError(
            f"model.image.kind={image.kind!r}: effects of heads and neurons on the embedding need "
            "a Vision Transformer (kind 'vit') with a class token or a mean over patches."
        )
    if image.pool not in ("cls", "mean"):
        raise UserError(
            f"model.image.pool={image.pool!r}: the pooling attends to the tokens itself, and the "
            "embedding is no sum over them. Effects of heads and neurons need 'cls' or 'mean'."
        )
    return image


def take_apart(model: DualEncoder, images: UInt8[Array, "batch side side 3"]) -> Parts:
    """Runs the image tower and returns what each part of it did.

    Args:
        model: in plain form.
        images: as `DualEncoder.encode_image` takes them.
    """
    tower: ViT = model.image
    first, _, rotary = tower.embedded(model._pixels(images))
    x, layers = first, []
    for block in tower.blocks.stack:
        x, parts = _run(block, x, rotary, tower.config.activation)
        layers.append(parts)
    weights = _weights(tower, x)
    pooled = jnp.einsum("bt,btw->bw", weights, x)
    return Parts(
        first=first,
        layers=tuple(layers),
        weights=weights,
        embeds=pooled @ readout(tower) + constant(tower),
    )


def readout(tower: ViT) -> Float[Array, "width embed"]:
    """Returns the map from the pooled stream to the embedding: centre, scale, project."""
    scaled = jnp.diag(_array(tower.norm.scale))
    mapped = scaled @ _array(tower.project.kernel) if tower.config.projection else scaled
    return mapped - mapped.mean(axis=0)


def constant(tower: ViT) -> Float[Array, " embed"]:
    """Returns what the embedding has of the biases behind the stream."""
    bias = _array(tower.norm.bias)
    if not tower.config.projection:
        return bias
    mapped = bias @ _array(tower.project.kernel)
    return mapped if tower.project.bias is None else mapped + _array(tower.project.bias)


def head_outputs(block: Block) -> Float[Array, "heads channels width"]:
    """Returns the maps from what each head reads to what it adds to the stream."""
    return _array(block.attn.out.kernel) * _gain(block, "ls_1")


def attention_bias(block: Block) -> Float[Array, " width"]:
    """Returns what attention adds to the stream whatever it reads."""
    return _array(block.attn.out.bias) * _gain(block, "ls_1")


def neuron_outputs(block: Block) -> Float[Array, "units width"]:
    """Returns what each unit of the MLP adds to the stream when its activation is 1."""
    return _array(block.mlp.fc2.kernel) * _gain(block, "ls_2")


def mlp_bias(block: Block) -> Float[Array, " width"]:
    """Returns what the MLP adds to the stream whatever its units do."""
    return _array(block.mlp.fc2.bias) * _gain(block, "ls_2")


def value_maps(block: Block) -> Float[Array, "heads width width"]:
    """Returns what each head adds to the stream of what stands, normed, where it reads.

    The centring and the gain of the norm are part of it; its bias and that of the values are not.
    """
    values = _array(block.attn.qkv.kernel)[:, 2] * _array(block.ln_1.scale)[:, None, None]
    values = values - values.mean(axis=0)
    return jnp.einsum("whc,hcv->hwv", values, head_outputs(block))


def blocks_of(tower: ViT) -> Iterator[Block]:
    """Yields the blocks of a tower in plain form."""
    yield from tower.blocks.stack


def _array(variable: Any) -> Array:
    # Flax types each parameter as one that may be missing.
    return variable[...]


def _gain(block: Block, name: str) -> Array | float:
    return getattr(block, name).gain[...] if block.scaled else 1.0


def _run(
    block: Block, x: Tokens, rotary: Rotary | None, activation: Any
) -> tuple[Tokens, LayerParts]:
    qkv = block.attn.qkv(block.ln_1(x))
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    if rotary is not None:
        query, key = turned(query, rotary), turned(key, rotary)
    scores = jnp.einsum("bthc,bshc->bhts", query, key) * query.shape[-1] ** -0.5
    attention = jax.nn.softmax(scores, axis=-1)
    mixed = jnp.einsum("bhts,bshc->bthc", attention, value)
    deviation = _deviation(x, block.ln_1.epsilon)
    x = x + jnp.einsum("bthc,hcw->btw", mixed, head_outputs(block)) + attention_bias(block)
    hidden = ACTIVATIONS[activation](block.mlp.fc1(block.ln_2(x)))
    x = x + hidden @ neuron_outputs(block) + mlp_bias(block)
    parts = LayerParts(deviation=deviation, attention=attention, mixed=mixed, hidden=hidden)
    return x, parts


def _weights(tower: ViT, x: Tokens) -> Weights:
    """Returns how much of each token is in the embedding, over the deviation of the last norm."""
    tokens, epsilon = x.shape[1], tower.config.norm_eps
    if tower.config.pool == "cls":
        return (jnp.arange(tokens) == 0) / _deviation(x[:, :1], epsilon)
    places = jnp.arange(tokens)[tower.pooled_places(tokens)]
    share = jnp.zeros(tokens).at[places].set(1 / len(places))
    if tower.config.norm_before_pool:
        return share / _deviation(x, epsilon)
    return share / _deviation(jnp.einsum("t,btw->bw", share, x), epsilon)[:, None]


def _deviation(x: Float[Array, "*places width"], epsilon: float) -> Float[Array, "*places"]:
    return jnp.sqrt(x.var(axis=-1) + epsilon)
