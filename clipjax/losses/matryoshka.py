"""Embeddings whose first coordinates are embeddings too, Kusupati et al. 2022."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from clipjax.losses.options import Embeds, Groups, HardNegatives, Scalar


def matryoshka(
    loss: Callable[..., jax.Array], dims: Sequence[int], weights: Sequence[float] | None = None
) -> Callable[..., jax.Array]:
    """Returns the weighted mean of a contrastive loss over prefixes of the embeddings.

    It is called like the loss itself. Each prefix is brought back to unit length first, as where it
    is used in place of the whole.

    Args:
        loss: of unit vectors, in any of its forms.
        dims: numbers of coordinates.
        weights: of each; equal by default.

    Raises:
        ValueError: if there is not one positive weight for each number.

    Source: Kusupati et al. 2022, "Matryoshka Representation Learning", section 3,
    https://arxiv.org/abs/2205.13147. Deviation: the mean over the prefixes in place of the sum, so
    that the learning rate need not know their number.
    """
    weights = [1.0] * len(dims) if weights is None else list(weights)
    if not dims or len(weights) != len(dims) or min(weights) <= 0:
        raise ValueError(f"dims={tuple(dims)} need one positive weight each, found {weights}")

    def of_prefixes(
        image_embeds: Embeds,
        text_embeds: Embeds,
        scale: Scalar,
        bias: Scalar | None = None,
        groups: Groups | None = None,
        hard_negatives: HardNegatives | None = None,
    ) -> Scalar:
        total = jnp.zeros((), image_embeds.dtype)
        for dim, weight in zip(dims, weights, strict=True):
            negatives = None if hard_negatives is None else _prefix(hard_negatives, dim)
            images, texts = _prefix(image_embeds, dim), _prefix(text_embeds, dim)
            total += weight * loss(images, texts, scale, bias, groups, negatives)
        return total / sum(weights)

    return of_prefixes


def _prefix(x: jax.Array, dim: int) -> jax.Array:
    x = x[..., :dim]
    # rsqrt of the clamped square keeps the gradient of a zero vector finite.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))
