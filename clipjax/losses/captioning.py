"""Cross-entropy of captions, without logits of all tokens over the whole vocabulary.

A batch of 65,536 captions of 64 tokens over 256,000 ids would have 4 TB of logits. The fast version
walks over blocks of the vocabulary: an online log-sum-exp forward, the same logits again backward.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from clipjax.core.partition import constrain_batch, gather_table
from clipjax.losses.online import added, no_normaliser, with_columns

Hidden = Float[Array, "batch places width"]
Kernel = Float[Array, "width vocab"]
Bias = Float[Array, " vocab"] | None
Targets = Int32[Array, "batch places"]
Counted = Bool[Array, "batch places"]
Losses = Float[Array, "batch places"]


def captioning_loss(
    hidden: Hidden,
    kernel: Kernel,
    bias: Bias,
    targets: Targets,
    counted: Counted,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Float[Array, ""]:
    """Mean cross-entropy of the tokens that count, from all logits: the readable reference.

    Args:
        hidden: what stands before the map to the vocabulary.
        kernel: of that map.
        bias: of that map; None for none.
        targets: id of the token that each place predicts.
        counted: which of them count; padding does not. If none does, the loss is 0.
        label_smoothing: share of a target that is spread over the vocabulary.
        z_loss: weight of the mean square of the log-normalisers.

    Returns:
        The loss in nats a token, float32.

    Source: Yu et al. 2022, "CoCa", section 3.2, https://arxiv.org/abs/2205.01917.
    """
    logits = _logits(hidden, kernel, bias)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    hits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses = normaliser - (1 - label_smoothing) * hits - label_smoothing * logits.mean(axis=-1)
    return mean_of_counted(losses + z_loss * normaliser**2, counted)


def chunked_captioning_loss(
    hidden: Hidden,
    kernel: Kernel,
    bias: Bias,
    targets: Targets,
    counted: Counted,
    *,
    block: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Float[Array, ""]:
    """Equals `captioning_loss`; there are logits of `block` ids at a time.

    Args:
        hidden: see `captioning_loss`.
        kernel: see `captioning_loss`.
        bias: see `captioning_loss`.
        targets: see `captioning_loss`.
        counted: see `captioning_loss`.
        block: most ids at a time.
        label_smoothing: see `captioning_loss`.
        z_loss: see `captioning_loss`.
    """
    losses = token_losses(
        hidden, kernel, bias, targets, block=block, label_smoothing=label_smoothing, z_loss=z_loss
    )
    return mean_of_counted(losses, counted)


def mean_of_counted(losses: Losses, counted: Counted) -> Float[Array, ""]:
    """Returns the mean over the tokens that count; 0 if none does."""
    return jnp.where(counted, losses, 0.0).sum() / jnp.maximum(counted.sum(), 1)


def token_losses(
    hidden: Hidden,
    kernel: Kernel,
    bias: Bias,
    targets: Targets,
    *,
    block: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Losses:
    """Returns the cross-entropy at each place, in nats, from logits of `block` ids at a time.

    Args:
        hidden: see `captioning_loss`; its dtype is that of the products, which add up in float32.
        kernel: see `captioning_loss`.
        bias: see `captioning_loss`.
        targets: see `captioning_loss`.
        block: most ids at a time.
        label_smoothing: see `captioning_loss`.
        z_loss: see `captioning_loss`.

    Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax",
    https://arxiv.org/abs/1805.02867; Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary
    Language Models", https://arxiv.org/abs/2411.09009.
    """
    return _losses(block, label_smoothing, z_loss, hidden, kernel, bias, targets)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _losses(block, smoothing, z_loss, hidden, kernel, bias, targets):
    return _forward(block, smoothing, z_loss, hidden, kernel, bias, targets)[0]


def _forward(block, smoothing, z_loss, hidden, kernel, bias, targets):
    whole, vocab = gather_table(kernel.astype(hidden.dtype)), kernel.shape[1]

    def visit(seen, number):
        sums, hits, spread = seen
        ids, fresh, logits = _block(number, block, hidden, whole, bias)
        hit = fresh & (ids == targets[..., None])
        seen = (
            added(sums, jnp.where(fresh, logits, -jnp.inf), axis=2),
            hits + jnp.where(hit, logits, 0.0).sum(axis=-1),
            spread + jnp.where(fresh, logits, 0.0).sum(axis=-1),
        )
        return seen, None

    zeros = constrain_batch(jnp.zeros(targets.shape, _sum_dtype(hidden)))
    start = no_normaliser(zeros), zeros, zeros
    (sums, hits, spread), _ = jax.lax.scan(visit, start, jnp.arange(-(-vocab // block)))
    normaliser = sums.value()
    losses = normaliser - (1 - smoothing) * hits - smoothing * spread / vocab
    losses += z_loss * normaliser**2
    return losses, (hidden, kernel, bias, targets, normaliser)


def _backward(block, smoothing, z_loss, residuals, cotangent):
    hidden, kernel, bias, targets, normaliser = residuals
    whole, vocab = gather_table(kernel.astype(hidden.dtype)), kernel.shape[1]
    weight = cotangent * (1 + 2 * z_loss * normaliser)
    dtype = _sum_dtype(hidden)

    def visit(gradients, number):
        d_hidden, d_kernel, d_bias = gradients
        ids, fresh, logits = _block(number, block, hidden, whole, bias)
        slope = weight[..., None] * jnp.exp(logits - normaliser[..., None])
        wanted = (1 - smoothing) * (ids == targets[..., None]) + smoothing / vocab
        slope = jnp.where(fresh, slope - cotangent[..., None] * wanted, 0.0)
        rounded = slope.astype(hidden.dtype)
        part = jax.lax.dynamic_slice_in_dim(whole, ids[0], len(ids), axis=1)
        d_hidden += jnp.einsum("bpv,wv->bpw", rounded, part, preferred_element_type=dtype)
        columns = jnp.einsum("bpw,bpv->wv", hidden, rounded, preferred_element_type=dtype)
        d_kernel = with_columns(d_kernel, columns, ids[0])
        d_bias = None if d_bias is None else with_columns(d_bias, slope.sum(axis=(0, 1)), ids[0])
        return (constrain_batch(d_hidden), d_kernel, d_bias), None

    start = (
        constrain_batch(jnp.zeros(hidden.shape, dtype)),
        jnp.zeros(kernel.shape, dtype),
        None if bias is None else jnp.zeros(bias.shape, dtype),
    )
    (d_hidden, d_kernel, d_bias), _ = jax.lax.scan(visit, start, jnp.arange(-(-vocab // block)))
    d_bias = None if bias is None or d_bias is None else d_bias.astype(bias.dtype)
    return d_hidden.astype(hidden.dtype), d_kernel.astype(kernel.dtype), d_bias, None


_losses.defvjp(_forward, _backward)


def _block(number, block, hidden, kernel, bias):
    """Returns the ids of a block, which of them no block before had, and their logits.

    The last block ends where the vocabulary does and begins in the one before, so that nothing has
    to be padded.
    """
    vocab = kernel.shape[1]
    size = min(block, vocab)
    first = jnp.minimum(number * block, vocab - size)
    ids = first + jnp.arange(size)
    part = jax.lax.dynamic_slice_in_dim(kernel, first, size, axis=1)
    offset = None if bias is None else jax.lax.dynamic_slice_in_dim(bias, first, size)
    return ids, ids >= number * block, constrain_batch(_logits(hidden, part, offset))


def _logits(hidden, kernel, bias):
    kernel, dtype = kernel.astype(hidden.dtype), _sum_dtype(hidden)
    logits = jnp.einsum("bpw,wv->bpv", hidden, kernel, preferred_element_type=dtype)
    return logits if bias is None else logits + bias.astype(dtype)


def _sum_dtype(hidden):
    return jnp.promote_types(hidden.dtype, jnp.float32)
