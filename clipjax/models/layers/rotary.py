"""Rotary positions, Su et al. 2021, "RoFormer", https://arxiv.org/abs/2104.09864."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
    """How far each pair of channels of each token is turned.

    Fields have no shapes in their annotations: tracing fills them with other things.

    Attributes:
        cos: of the angles, [tokens, pairs] or [batch, tokens, pairs].
        sin: likewise.
    """

    cos: Any
    sin: Any


def rotary_1d(tokens: int, head_dim: int, theta: float) -> Rotary:
    """Returns the turns of tokens 0, 1, ... by theta^(-2 i / head_dim) for pair i."""
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    return _of(np.arange(tokens)[:, None] * frequencies)


def rotary_2d(
    rows: int, columns: int, head_dim: int, *, theta: float = 10_000.0, grid: int | None = None
) -> Rotary:
    """Returns the turns of a grid of patches, row by row.

    The first half of the pairs turns with the row, the second with the column, both at the
    frequencies theta^(-4 i / head_dim).

    Args:
        rows: of the grid.
        columns: of the grid.
        head_dim: channels of a head; a multiple of 4.
        theta: see above.
        grid: side of the grid that the model was trained on: places are stretched to it.

    Source: Fang et al. 2023, "EVA-02", section 2.1, https://arxiv.org/abs/2303.11331.
    """
    frequencies = theta ** (-np.arange(0, head_dim // 2, 2, dtype=np.float64) / (head_dim // 2))
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    if grid is not None:
        y, x = y * grid / rows, x * grid / columns
    return _of(
        np.concatenate([y.reshape(-1, 1) * frequencies, x.reshape(-1, 1) * frequencies], axis=1)
    )


def rotary_at(places: Int[Array, "batch tokens 2"], head_dim: int) -> Rotary:
    """Returns the turns of patches anywhere: those of `rotary_2d` for their rows and columns.

    Args:
        places: row and column of each patch, in patches.
        head_dim: channels of a head; a multiple of 4.
    """
    half = head_dim // 2
    frequencies = 10_000.0 ** (-np.arange(0, half, 2, dtype=np.float64) / half)
    angles = places[..., None].astype(jnp.float32) * frequencies.astype(np.float32)
    angles = angles.reshape(*places.shape[:2], half)
    return Rotary(cos=jnp.cos(angles), sin=jnp.sin(angles))


def _of(angles: Float[np.ndarray, "tokens pairs"]) -> Rotary:
    return Rotary(cos=np.cos(angles).astype(np.float32), sin=np.sin(angles).astype(np.float32))


def unturned_before(rotary: Rotary, tokens: int) -> Rotary:
    """Returns the turns with tokens in front that stay as they are (class token, registers)."""
    front = [(0, 0)] * (rotary.cos.ndim - 2) + [(tokens, 0), (0, 0)]
    return Rotary(
        cos=jnp.pad(rotary.cos, front, constant_values=1.0), sin=jnp.pad(rotary.sin, front)
    )


def taken(rotary: Rotary, places: Int[Array, "batch kept"]) -> Rotary:
    """Returns the turns of the tokens that each example keeps."""
    cos, sin = jnp.asarray(rotary.cos), jnp.asarray(rotary.sin)
    if cos.ndim == 2:
        return Rotary(cos=cos[places], sin=sin[places])
    rows = places[..., None]
    return Rotary(
        cos=jnp.take_along_axis(cos, rows, axis=1), sin=jnp.take_along_axis(sin, rows, axis=1)
    )


def turned(
    x: Float[Array, "batch tokens heads channels"], rotary: Rotary
) -> Float[Array, "batch tokens heads channels"]:
    """Returns queries or keys turned; neighbouring channels are a pair.

    The turn is worked out in float32, and rounded once.
    """
    cos = jnp.asarray(rotary.cos)[..., :, None, :]
    sin = jnp.asarray(rotary.sin)[..., :, None, :]
    even, odd = x[..., 0::2].astype(cos.dtype), x[..., 1::2].astype(cos.dtype)
    pairs = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return pairs.reshape(x.shape).astype(x.dtype)
