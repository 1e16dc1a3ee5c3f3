"""The units of a model that taps can read and write."""

import dataclasses
import fnmatch
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.config import DualEncoderConfig
from clipjax.models.params import param_shapes, with_params
from clipjax.models.taps import check_found, units_run


def unit_paths(config: DualEncoderConfig, patterns: Iterable[str] = ("*",)) -> dict[str, int]:
    """Returns the width of everything that `clipjax.models.taps` can name in a model, by path.

    Args:
        config: of the model.
        patterns: with `*`; what none of them fits is left out.

    Raises:
        UserError: if a pattern fits nothing, naming the nearest path.

    >>> from clipjax.config import TextConfig, ViTConfig
    >>> image, text = ViTConfig(depth=1, width=64, num_heads=1, mlp_dim=96), TextConfig(depth=2)
    >>> unit_paths(DualEncoderConfig(image=image, text=text), ["image/*t", "shared/embed"])
    {'image/blocks/0/mlp_act': 96, 'image/blocks/0/out': 64, 'shared/embed': 512}
    """
    compute = dataclasses.replace(config.compute, scan_layers=True)  # one block for all: quicker
    found, patterns = _paths(dataclasses.replace(config, compute=compute)), list(patterns)
    for pattern in patterns:
        check_found(pattern, found)
    return {
        path: width
        for path, width in found.items()
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
    }


def is_non_negative(config: DualEncoderConfig, path: str = "shared/embed") -> bool:
    """Returns whether a coordinate of the shared space has one direction, and no sign to choose.

    It is false of every other path: what a tower computes may be negative, however rarely.

    Args:
        config: of the model.
        path: of units.
    """
    return path == "shared/embed" and config.head.is_non_negative


@functools.lru_cache(maxsize=64)
def _paths(config: DualEncoderConfig) -> dict[str, int]:
    side = config.image.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in param_shapes(config).items()
    }

    def run(params: Any, images: Any, tokens: Any) -> tuple[Any, Any]:
        model = with_params(config, params)
        return model.encode_image(images), model.encode_text(tokens)

    return units_run(run, params, images, tokens)
