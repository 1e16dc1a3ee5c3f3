"""Arithmetic cost of a model, counted from the trace of its towers and its decoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from clipjax.config import DualEncoderConfig, TrainConfig, ViTConfig
from clipjax.core.flops import program_flops
from clipjax.models.params import param_shapes, with_params
from clipjax.models.patches import Patches


@functools.cache
def image_forward_flops(config: DualEncoderConfig, num_patches: int | None = None) -> int:
    """Returns the FLOPs of one image through its tower; other models of the same tower are free.

    Args:
        config: of the model.
        num_patches: of an image that is not square, padding included; only for a vit.
    """
    if num_patches is None:
        side = config.image.image_size
        return _flops(config, "image", jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    assert isinstance(config.image, ViTConfig)
    values = 3 * config.image.patch_size**2
    patches = Patches(
        values=jax.ShapeDtypeStruct((1, num_patches, values), jnp.float32),
        positions=jax.ShapeDtypeStruct((1, num_patches, 2), jnp.int32),
        mask=jax.ShapeDtypeStruct((1, num_patches), jnp.bool_),
        grid=jax.ShapeDtypeStruct((1, 2), jnp.int32),
    )
    return _flops(config, "image", patches)


@functools.cache
def text_forward_flops(config: DualEncoderConfig, num_tokens: int | None = None) -> int:
    """Returns the FLOPs of one text through its tower.

    Args:
        config: of the model.
        num_tokens: of the text, padding included; the context length by default.
    """
    tokens = num_tokens or config.text.context_length
    return _flops(config, "text", jax.ShapeDtypeStruct((1, tokens), jnp.int32))


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
    if config.decoder is None:
        return 0
    assert isinstance(config.image, ViTConfig)
    tokens = num_tokens or config.text.context_length
    patches = num_patches or config.image.num_patches
    seen = config.image.pooler_queries - 1 if config.image.pool == "coca" else patches
    image = jax.ShapeDtypeStruct((1, seen, config.image_token_width), jnp.float32)
    if config.decoder.kind == "cappa":
        text = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    else:
        text = jax.ShapeDtypeStruct((1, tokens, config.decoder.width), jnp.float32)
    return _flops(config, "decoder", text, image)


def trained_pair_forward_flops(config: TrainConfig, num_tokens: int | None = None) -> int:
    """Returns the FLOPs of one pair as a run sees it; padding counts.

    Args:
        config: of the run.
        num_tokens: of a text in a batch of `data.text_buckets`; the context length by default.
    """
    most = config.data.max_patches if config.data.image_mode == "naflex" else None
    return pair_forward_flops(config.model, most, num_tokens)


def _flops(config: DualEncoderConfig, part: str, *inputs: object) -> int:
    # One block traced for all: a deep model is counted in a third of a second.
    compute = dataclasses.replace(config.compute, scan_layers=True, remat="none")
    config = dataclasses.replace(config, compute=compute)
    arrays = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in param_shapes(config).items()
    }
    return program_flops(
        lambda arrays, *inputs: getattr(with_params(config, arrays), part)(*inputs),
        arrays,
        *inputs,
    )
