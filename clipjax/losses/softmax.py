"""Contrastive softmax loss, Radford et al. 2021, figure 3, https://arxiv.org/abs/2103.00020."""

import jax
import jax.numpy as jnp

from clipjax.losses.options import (
    PLAIN,
    Embeds,
    Groups,
    HardNegatives,
    LossOptions,
    Scalar,
    flat,
    relations,
)


def softmax_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    bias: Scalar | None = None,
    groups: Groups | None = None,
    hard_negatives: HardNegatives | None = None,
    *,
    options: LossOptions = PLAIN,
) -> Scalar:
    """Mean of image-to-text and text-to-image cross-entropy: the readable reference.

    Args:
        image_embeds: unit length, float32.
        text_embeds: unit length, float32; row i is the caption of image i.
        scale: multiplies the cosine similarity (1 / temperature).
        bias: it would cancel in the softmax and is taken for symmetry with SigLIP.
        groups: what rows of one group are to each other, `options` say; None if all are apart.
        hard_negatives: further texts, wrong for every image; candidates of image-to-text only
            (NegCLIP, Yuksekgonul et al. 2023, https://arxiv.org/abs/2210.01936).
        options: see `LossOptions`.

    Returns:
        The loss in nats, averaged over the batch and the two directions.
    """
    rows = jnp.arange(len(image_embeds))
    groups = rows if groups is None else groups
    logits = scale * image_embeds @ text_embeds.T
    positive, counted = relations(options, groups, groups, rows, rows)
    logits = jnp.where(counted, logits, -jnp.inf)
    to_image = _cross_entropy(logits.T, positive.T, options)
    if hard_negatives is not None:
        wrong = scale * image_embeds @ flat(hard_negatives).T
        logits = jnp.concatenate([logits, wrong], axis=1)
        positive = jnp.concatenate([positive, jnp.zeros(wrong.shape, bool)], axis=1)
    loss = (_cross_entropy(logits, positive, options) + to_image) / 2
    return loss if bias is None else loss + 0.0 * bias


def _cross_entropy(logits: jax.Array, positive: jax.Array, options: LossOptions) -> jax.Array:
    """Returns the mean over rows; candidates that do not count have logits of minus infinity."""
    normaliser = jax.nn.logsumexp(logits, axis=1)
    counted = logits > -jnp.inf
    logits = jnp.where(counted, logits, 0.0)
    share = options.label_smoothing
    hits = (positive * logits).sum(axis=1) / positive.sum(axis=1)
    all_of_them = logits.sum(axis=1) / counted.sum(axis=1)
    loss = normaliser - (1 - share) * hits - share * all_of_them
    return (loss + options.z_loss * normaliser**2).mean()
