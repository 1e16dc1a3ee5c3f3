"""Leaving out patches in training, Li et al. 2022, "FLIP", https://arxiv.org/abs/2212.00794."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


def kept_patches(
    key: Key[Array, ""],
    mask: Bool[Array, "batch patches"] | None,
    shape: tuple[int, ...],
    dropped: float,
) -> Int[Array, "batch kept"]:
    """Returns the places of the patches that each image keeps, in ascending order.

    Every image keeps max(1, round((1 - dropped) patches)) of them, drawn uniformly; padding comes
    last, so that an image of few patches loses none to padding.

    Args:
        key: of the step.
        mask: which patches belong to the image; all by default.
        shape: batch and patches.
        dropped: share that is left out.
    """
    kept = max(1, round((1 - dropped) * shape[1]))
    draws = jax.random.uniform(key, shape)
    if mask is not None:
        draws = jnp.where(mask, draws, 2.0)
    return jnp.sort(jnp.argsort(draws, axis=1)[:, :kept], axis=1)
