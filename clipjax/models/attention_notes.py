"""Which towers compute their attention with XLA although cuDNN was looked for, and why."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from clipjax.config import DualEncoderConfig
from clipjax.models.cost import patch_shapes
from clipjax.models.layers.dot_product import fallbacks_noted, target
from clipjax.models.params import abstract_model


def attention_notes(config: DualEncoderConfig, num_patches: int | None = None) -> list[str]:
    """Returns a line for each tower whose attention is not, or not all, cuDNN's on a GPU.

    Nothing is said where nothing else could be expected: on other devices, and without 'auto'.
    Call it with the mesh set.

    Args:
        config: of the model.
        num_patches: of an image that is not square, padding included; only for a vit.
    """
    if config.compute.attention != "auto" or target()[0] != "gpu":
        return []
    compute = dataclasses.replace(config.compute, scan_layers=True)  # one block for all: quicker
    config = dataclasses.replace(config, compute=compute)
    graph, state = nnx.split(abstract_model(config))
    side = config.image.image_size
    images: Any = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    if num_patches is not None:
        images = patch_shapes(config.image, num_patches)
    tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)

    def reasons(method: str, *inputs: Any) -> list[str]:
        with fallbacks_noted() as found:
            jax.eval_shape(lambda s, *x: getattr(nnx.merge(graph, s), method)(*x), state, *inputs)
        return found

    found = {
        "image": reasons("encode_image", images),
        "text": reasons("encode_text", tokens),
    }
    if config.decoder is not None:
        towers = [reason for why in found.values() for reason in why]
        whole = reasons("forward_captioning", images, tokens)
        found["decoder"] = [reason for reason in whole if reason not in towers]
    return [
        f"model.{tower}: attention by XLA, not cuDNN: {'; '.join(why)}."
        for tower, why in found.items()
        if why
    ]
