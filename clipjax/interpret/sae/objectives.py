"""Which latents of a row, a pair or a batch are kept; all else becomes zero."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Codes = Float[Array, "rows latents"]

_FLOAT_BITS = 31  # of a float32 that is not negative, hence has no sign


def top_k(positive: Codes, k: int) -> Codes:
    """Keeps the k largest latents of each row; of equal ones those with smaller numbers.

    Args:
        positive: not negative: what a ReLU gives. Rows with fewer than k above 0 keep those.
        k: at most the number of latents.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", section 2.3,
    https://arxiv.org/abs/2406.04093.
    """
    return positive * _top_k_mask(positive, k)


def batch_top_k(positive: Codes, count: int | Int[Array, ""]) -> Codes:
    """Keeps the `count` largest latents of all rows together.

    Where fewer are above 0, all of these are kept; of equal ones at the limit all are kept.

    The rows may be split over devices: the threshold is found by halving the range of float32, so
    that devices exchange one number at a time, and no latents.

    Args:
        positive: not negative, float32.
        count: k times the rows.

    Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders", section 3,
    https://arxiv.org/abs/2412.06410.
    """
    # Floats that are not negative are in the order of their bits.
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(positive), jnp.int32)

    def halve(place: Array, low: Array) -> Array:
        """Sets one more bit of the threshold, if there are still `count` latents at or above."""
        raised = low | (1 << (_FLOAT_BITS - 1 - place))
        return jnp.where((bits >= raised).sum() >= count, raised, low)

    found = jax.lax.fori_loop(0, _FLOAT_BITS, halve, jnp.zeros((), jnp.int32))
    return jnp.where(bits >= jnp.maximum(found, 1), positive, 0)


def group_top_k(image: Codes, text: Codes, k: int) -> tuple[Codes, Codes]:
    """Keeps the k latents of each pair with the largest length of (image's, text's).

    Both keep the same latents: the support is the pair's.

    Args:
        image: not negative.
        text: not negative; row i is of the same pair as row i of `image`. Zeros for a modality that
            is hidden: the other one decides alone.
        k: at most the number of latents.

    Source: "Decomposing multimodal embedding spaces with group-sparse autoencoders", 2026,
    https://arxiv.org/abs/2601.20028. Deviation: the group lasso there is a penalty; here groups
    compete by the same length for k places, so that the sparsity is what was asked for.
    """
    lengths = jax.lax.stop_gradient(image * image + text * text)
    kept = _top_k_mask(lengths, k)
    return image * kept, text * kept


def _top_k_mask(values: Codes, k: int) -> Codes:
    """Returns 1 for the k largest of each row, else 0; rows may be split over devices."""
    values = jax.lax.stop_gradient(values)

    def of_row(row: Array) -> Array:
        return jnp.zeros_like(row).at[jax.lax.top_k(row, k)[1]].set(1)

    return jax.vmap(of_row)(values)
