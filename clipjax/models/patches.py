"""A batch of images of several shapes, already cut into patches."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Patches:
    """What the Vision Transformer takes in place of square images.

    Fields have no shapes in their annotations: tracing fills them with other things.

    Attributes:
        values: pixels of each patch in the order y, x, channel; [batch, patches, values].
        positions: row and column of each patch in its image; [batch, patches, 2].
        mask: which patches belong to the image, at least one; [batch, patches]. What the others
            hold changes nothing.
        grid: rows and columns of patches of each image; [batch, 2].
    """

    values: Any
    positions: Any
    mask: Any
    grid: Any


def patches_of(batch: Mapping[str, Any]) -> Patches:
    """Returns the patches of a training batch of mode naflex."""
    return Patches(
        values=batch["patches"],
        positions=batch["patch_positions"],
        mask=batch["patch_mask"],
        grid=batch["patch_grid"],
    )
