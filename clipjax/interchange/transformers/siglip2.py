"""Siglip2Model of transformers: SigLIP 2 with images of any shape (NaFlex)."""

import math
from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig
from clipjax.interchange.layout import Layout, linear
from clipjax.interchange.requirements import require
from clipjax.interchange.transformers.fields import Section
from clipjax.interchange.transformers.preprocessing import FILE, read_patches, write_patches
from clipjax.interchange.transformers.siglip import (
    PREPROCESSOR,
    VISION,
    layout_around,
    read_around,
    towers,
    written,
)

NAME = "transformers' Siglip2Model"

_VISION = {**VISION, "num_patches": 256}
_PREPROCESSOR = {**PREPROCESSOR, "resample": 2, "patch_size": 16, "max_num_patches": 256}


def layout(config: DualEncoderConfig) -> Layout:
    """Returns where a Siglip2Model keeps the parameters of a model.

    Patches are embedded by a matrix there, their pixels in the order of ours: y, x, channel.

    Raises:
        UserError: if the model is none that it can hold.
    """
    patches = linear("image/patchify", "vision_model.embeddings.patch_embedding", input_axes=3)
    return layout_around(config, NAME, patches)


def read(values: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> DualEncoderConfig:
    """Returns the config of a model from its `config.json` and `preprocessor_config.json`.

    The size of square images is that at which the table of positions is used as it is.

    Raises:
        UserError: if a field has a value that is not supported here.
    """
    vision = Section("config.json: vision_config", values.get("vision_config"), _VISION)
    patches, patch_size = vision.integer("num_patches"), vision.side("patch_size")
    side = math.isqrt(max(patches, 0))
    if side**2 != patches or not side:
        raise vision.wrong("num_patches", "a square number: positions are those of a square grid")
    picture = read_patches(preprocessor, _PREPROCESSOR, patch_size)
    return read_around(values, vision, side * patch_size, picture)


def write(config: DualEncoderConfig) -> dict[str, dict[str, Any]]:
    """Returns `config.json` and `preprocessor_config.json` of a model.

    Images get as many patches there as the table of positions has rows.

    Raises:
        UserError: if the model is none that a Siglip2Model can hold.
    """
    vit, text = towers(config, NAME)
    patches = vit.num_patches
    require(config, NAME, {"image.image_size": math.isqrt(patches) * vit.patch_size})
    return {
        "config.json": written(vit, text, "siglip2", "Siglip2Model", {"num_patches": patches}),
        FILE: write_patches(config, "Siglip2", vit.patch_size, patches),
    }
