"""Pairwise sigmoid loss, Zhai et al. 2023, https://arxiv.org/abs/2303.15343."""

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


def sigmoid_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    bias: Scalar,
    groups: Groups | None = None,
    hard_negatives: HardNegatives | None = None,
    *,
    options: LossOptions = PLAIN,
) -> Scalar:
    """Every image against every text, in one matrix: the readable reference.

    Args:
        image_embeds: unit length, float32.
        text_embeds: unit length, float32; row i is the caption of image i.
        scale: multiplies the cosine similarity.
        bias: is added after it; about -log(batch) at the start keeps the first loss small.
        groups: what rows of one group are to each other, `options` say; None if all are apart.
        hard_negatives: further texts, wrong for every image.
        options: see `LossOptions`; what is for softmax only must be 0.

    Returns:
        The sum over all pairs, divided by the batch size (as in the paper, not by its square).
    """
    rows = jnp.arange(len(image_embeds))
    groups = rows if groups is None else groups
    logits = scale * image_embeds @ text_embeds.T + bias
    positive, counted = relations(options, groups, groups, rows, rows)
    total = -(jax.nn.log_sigmoid(jnp.where(positive, logits, -logits)) * counted).sum()
    if hard_negatives is not None:
        wrong = scale * image_embeds @ flat(hard_negatives).T + bias
        total -= jax.nn.log_sigmoid(-wrong).sum()
    return total / len(image_embeds)
