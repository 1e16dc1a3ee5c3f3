"""What each attention head adds to the embedding of an image by itself: its direct effect.

Source: Gandelsman et al. 2024, "Interpreting CLIP's Image Representation via Text-Based
Decomposition", section 3, https://arxiv.org/abs/2310.05916.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from clipjax.config import DualEncoderConfig
from clipjax.interpret.vit_parts import (
    Parts,
    attention_bias,
    blocks_of,
    constant,
    head_outputs,
    in_plain_form,
    mlp_bias,
    neuron_outputs,
    readout,
    take_apart,
)
from clipjax.models import with_params
from clipjax.models.vit import ViT


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectEffects:
    """The embedding of each image as a sum, before it is made of unit length.

    Attributes:
        heads: of each head of each layer.
        mlps: of each MLP, with its bias.
        biases: of attention, of the last norm and of the projection.
        first: of the stream before the first block.
        embeds: the sum of all.
    """

    heads: Float[Array, "batch layers heads embed"]
    mlps: Float[Array, "batch layers embed"]
    biases: Float[Array, "batch embed"]
    first: Float[Array, "batch embed"]
    embeds: Float[Array, "batch embed"]


def direct_effects(tower: ViT, parts: Parts) -> DirectEffects:
    """Returns the whole sum; [layers, heads, embed] of it an image: for a few of them.

    Args:
        tower: of a model in plain form.
        parts: of the tower on a batch.
    """
    out, total = readout(tower), parts.weights.sum(axis=1)[:, None]
    blocks = list(blocks_of(tower))
    heads = jnp.stack(
        [
            jnp.einsum("bhc,hcw->bhw", _read(parts, layer), head_outputs(block)) @ out
            for layer, block in enumerate(blocks)
        ],
        axis=1,
    )
    mlps = jnp.stack(
        [
            (parts.pooled(part.hidden) @ neuron_outputs(block) + total * mlp_bias(block)) @ out
            for part, block in zip(parts.layers, blocks, strict=True)
        ],
        axis=1,
    )
    added = jnp.stack([attention_bias(block) for block in blocks]).sum(axis=0)
    return DirectEffects(
        heads=heads,
        mlps=mlps,
        biases=total * (added @ out) + constant(tower),
        first=parts.pooled(parts.first) @ out,
        embeds=parts.embeds,
    )


class HeadReads:
    """What heads read of images, a few numbers each, and the fixed maps from there to embeddings.

    The direct effect of a head on an embedding of 512 numbers is a linear map of the 64 that it
    reads, so sums over images can be kept of these.

    Args:
        config: of the model.
        params: of the model, by name.
        layers: whose heads are read.

    Attributes:
        layers: those of `layers`.
        maps: from what a head reads to its effect on the embedding.

    Raises:
        UserError: if the image tower is none whose embedding is such a sum.
    """

    def __init__(self, config: DualEncoderConfig, params: Mapping[str, Any], layers: Sequence[int]):
        self.layers = tuple(layers)
        plain, self._params = in_plain_form(config, params)

        def maps(params: Any) -> Array:
            tower = with_params(plain, params).image
            blocks = list(blocks_of(tower))
            chosen = jnp.stack([head_outputs(blocks[layer]) for layer in self.layers])
            return chosen @ readout(tower)

        def reads(params: Any, images: Array) -> Array:
            parts = take_apart(with_params(plain, params), images)
            of_layers = jnp.stack([_read(parts, layer) for layer in self.layers], axis=1)
            lengths = jnp.linalg.norm(parts.embeds, axis=-1)
            return of_layers / lengths[:, None, None, None]

        self.maps: Float[np.ndarray, "layers heads channels embed"]
        self.maps = np.asarray(jax.jit(maps)(self._params))
        self._reads = jax.jit(reads)

    def __call__(
        self, images: UInt8[np.ndarray, "batch side side 3"]
    ) -> Float[np.ndarray, "batch layers heads channels"]:
        """Returns what the heads read of images, over the length of each embedding.

        Mapped by `maps` it is their share of the embedding of unit length.
        """
        return np.asarray(self._reads(self._params, images))


def _read(parts: Parts, layer: int) -> Float[Array, "batch heads channels"]:
    return jnp.einsum("bt,bthc->bhc", parts.weights, parts.layers[layer].mixed)
