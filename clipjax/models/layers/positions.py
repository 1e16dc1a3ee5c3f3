"""Where a patch is: fixed two-dimensional sines and cosines, and grids of other shapes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def sincos2d(height: int, width: int, dim: int) -> Float[np.ndarray, "patches dim"]:
    """Returns fixed position embeddings of a grid, row by row.

    A quarter of the channels each: sine and cosine of x, sine and cosine of y, at frequencies
    10000^(-i / (dim / 4 - 1)).

    Source: Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k", section 3,
        https://arxiv.org/abs/2205.01580.

    >>> sincos2d(2, 3, 8).shape
    (6, 8)
    """
    y, x = np.mgrid[:height, :width]
    omega = 10000.0 ** -np.linspace(0, 1, dim // 4)
    angles_x, angles_y = x.reshape(-1, 1) * omega, y.reshape(-1, 1) * omega
    parts = [np.sin(angles_x), np.cos(angles_x), np.sin(angles_y), np.cos(angles_y)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def resampled(
    table: Float[Array, "cells dim"],
    positions: Int[Array, "batch patches 2"],
    grids: Int[Array, "batch 2"],
) -> Float[Array, "batch patches dim"]:
    """Returns the embedding of each patch: a square table resized to the grid of its image.

    Bilinear, with a wider filter along an axis that shrinks. Where the grid is the table's own, the
    result is the table.

    Args:
        table: of a square grid, row by row.
        positions: row and column of each patch.
        grids: rows and columns of each image.

    Source: Tschannen et al. 2025, "SigLIP 2", section on NaFlex, https://arxiv.org/abs/2502.14786.
    """
    side = round(table.shape[0] ** 0.5)
    rows = _bilinear(positions[..., 0], grids[:, 0], side)
    columns = _bilinear(positions[..., 1], grids[:, 1], side)
    weights = (rows[..., :, None] * columns[..., None, :]).reshape(*positions.shape[:2], -1)
    # A table rounded to bfloat16 by the matrix unit would not be the table any more.
    return jnp.matmul(weights, table, precision=jax.lax.Precision.HIGHEST)


def _bilinear(
    places: Int[Array, "batch patches"], sizes: Int[Array, " batch"], side: int
) -> Float[Array, "batch patches side"]:
    """Returns the weights of the cells of a side for places on sides of other sizes."""
    scale = side / jnp.maximum(sizes, 1).astype(jnp.float32)[:, None]
    centres = (places + 0.5) * scale - 0.5
    spread = jnp.maximum(scale, 1.0)[..., None]
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(centres[..., None] - jnp.arange(side)) / spread)
    # Places of padding may be anywhere; theirs must not become NaN.
    return weights / jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-6)
