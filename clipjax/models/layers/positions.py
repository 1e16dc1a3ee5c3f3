"""Where a patch is: fixed two-dimensional sines and cosines."""

import numpy as np
from jaxtyping import Float


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
