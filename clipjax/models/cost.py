"""Arithmetic cost of a model, counted from the trace of its towers and its decoder."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.config import ComputeConfig, DualEncoderConfig, TrainConfig, ViTConfig
from clipjax.core.flops import program_flops
from clipjax.models.dual_encoder import DECODERS
from clipjax.models.matching import MatchingHead
from clipjax.models.params import TowerConfig, abstract_tower, shape_rngs
from clipjax.models.patches import Patches


def image_forward_flops(
    config: DualEncoderConfig, num_patches: int | None = None, *, training: bool = False
) -> int:
    """Returns the FLOPs of one image through its tower; other models of the same tower are free.

    Args:
        config: of the model.
        num_patches: of an image that is not square, padding included; only for a vit.
        training: without the patches that `patch_dropout` leaves out.
    """
    dropped = training and getattr(config.image, "patch_dropout", 0.0) > 0
    if num_patches is None:
        side = config.image.image_size
        item = (1, side, side, 3), "float32"
        return _flops(config.image, config.embed_dim, item, dropped=dropped)
    assert isinstance(config.image, ViTConfig)
    return _flops(config.image, config.embed_dim, num_patches, dropped=dropped)


def text_forward_flops(config: DualEncoderConfig, num_tokens: int | None = None) -> int:
    """Returns the FLOPs of one text through its tower.

    Args:
        config: of the model.
        num_tokens: of the text, padding included; the context length by default.
    """
    tokens = num_tokens or config.text.context_length
    return _flops(config.text, config.embed_dim, ((1, tokens), "int32"))


def pair_forward_flops(
    config: DualEncoderConfig, num_patches: int | None = None, num_tokens: int | None = None
) -> int:
    """Returns the FLOPs of one pair through both towers and the decoder, if there is one.

    The loss is left out.

    Args:
        config: of the model.
        num_patches: as in `image_forward_flops`.
        num_tokens: as in `text_forward_flops`.
    """
    return (
        image_forward_flops(config, num_patches)
        + text_forward_flops(config, num_tokens)
        + decoder_forward_flops(config, num_patches, num_tokens)
    )


@functools.cache
def decoder_forward_flops(
    config: DualEncoderConfig, num_patches: int | None = None, num_tokens: int | None = None
) -> int:
    """Returns the FLOPs of one caption through the decoder alone; 0 without one.

    Args:
        config: of the model.
        num_patches: as in `image_forward_flops`.
        num_tokens: of the caption, padding included; the context length by default.
    """
    decoder = config.decoder
    if decoder is None:
        return 0
    tokens = num_tokens or config.text.context_length
    if decoder.kind == "cappa":
        text = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    else:
        text = jax.ShapeDtypeStruct((1, tokens, decoder.width), jnp.float32)
    return _reader_flops(DECODERS[decoder.kind], config, text, num_patches)


def _reader_flops(
    kind: Any, config: DualEncoderConfig, text: jax.ShapeDtypeStruct, num_patches: int | None
) -> int:
    """Returns the FLOPs of what reads a text and the tokens of an image."""
    assert isinstance(config.image, ViTConfig)
    patches = num_patches or config.image.num_patches
    seen = config.image.pooler_queries - 1 if config.image.pool == "coca" else patches
    image = jax.ShapeDtypeStruct((1, seen, config.image_token_width), jnp.float32)
    config = dataclasses.replace(config, compute=ComputeConfig(scan_layers=True))
    graph, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=shape_rngs())))
    return program_flops(
        lambda state, *inputs: nnx.merge(graph, state)(*inputs), state, text, image
    )


@functools.cache
def matching_forward_flops(
    config: DualEncoderConfig, num_patches: int | None = None, num_tokens: int | None = None
) -> int:
    """Returns the FLOPs of one pair through the matching head alone; 0 without one.

    Args:
        config: of the model.
        num_patches: as in `image_forward_flops`.
        num_tokens: of the text, padding included; the context length by default.
    """
    if config.matching is None:
        return 0
    text = jax.ShapeDtypeStruct((1, num_tokens or config.text.context_length), jnp.int32)
    return _reader_flops(MatchingHead, config, text, num_patches)


def trained_pair_forward_flops(config: TrainConfig, num_tokens: int | None = None) -> int:
    """Returns the FLOPs of one pair as a run sees it; padding counts.

    Args:
        config: of the run.
        num_tokens: of a text in a batch of `data.text_buckets`; the context length by default.
    """
    most = config.data.max_patches if config.data.image_mode == "naflex" else None
    return pair_forward_flops(config.model, most, num_tokens)


@functools.cache
def _flops(
    tower: TowerConfig,
    embed_dim: int,
    inputs: int | tuple[tuple[int, ...], str],
    *,
    dropped: bool = False,
) -> int:
    """Returns the FLOPs of one item; models that share a tower share its trace.

    Args:
        tower: config of the tower.
        embed_dim: size of the shared space.
        inputs: shape and dtype of what it takes, or the number of patches of an image.
        dropped: some patches are left out.
    """
    # One block is traced for all of them.
    graph, state = nnx.split(abstract_tower(tower, embed_dim, ComputeConfig(scan_layers=True)))
    item = patch_shapes(tower, inputs) if isinstance(inputs, int) else jax.ShapeDtypeStruct(*inputs)
    keys = (jax.eval_shape(lambda: jax.random.key(0)),) if dropped else ()
    return program_flops(
        lambda state, *inputs: nnx.merge(graph, state)(*inputs), state, item, *keys
    )


def patch_shapes(tower: TowerConfig, count: int) -> Patches:
    """Returns shapes and dtypes of one image as `count` patches; only for a vit."""
    assert isinstance(tower, ViTConfig)
    return Patches(
        values=jax.ShapeDtypeStruct((1, count, 3 * tower.patch_size**2), jnp.float32),
        positions=jax.ShapeDtypeStruct((1, count, 2), jnp.int32),
        mask=jax.ShapeDtypeStruct((1, count), jnp.bool_),
        grid=jax.ShapeDtypeStruct((1, 2), jnp.int32),
    )
