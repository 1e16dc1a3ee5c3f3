"""The softmax loss in blocks: the value and the gradients of `softmax_loss`, flat in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from clipjax.core.mesh import BATCH_AXES, batch_devices
from clipjax.losses.online import added, home, joined, no_normaliser
from clipjax.losses.options import (
    PLAIN,
    Embeds,
    Groups,
    HardNegatives,
    LossOptions,
    Scalar,
    relations,
)
from clipjax.losses.streaming import Walk, given, numbered

_ROWS, _WHOLE = PartitionSpec(BATCH_AXES), PartitionSpec()


def streaming_softmax_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    bias: Scalar | None = None,
    groups: Groups | None = None,
    hard_negatives: HardNegatives | None = None,
    *,
    walk: Walk,
    options: LossOptions = PLAIN,
) -> Scalar:
    """Equals `softmax_loss`; each logit is computed once forward and once backward.

    Normalisers are summed online (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867).
    For the backward pass the normalisers alone are kept, two numbers a pair.

    Args:
        image_embeds: unit length.
        text_embeds: unit length; row i is the caption of image i.
        scale: multiplies the cosine similarity.
        bias: see `softmax_loss`.
        groups: see `softmax_loss`.
        hard_negatives: see `softmax_loss`.
        walk: how each device sees all texts.
        options: see `LossOptions`.
    """
    groups, hard_negatives = given(text_embeds, groups, hard_negatives)
    loss: jax.Array = _loss(walk, options, image_embeds, text_embeds, hard_negatives, scale, groups)  # pyright: ignore[reportAssignmentType]
    return loss if bias is None else loss + 0.0 * bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(walk, options, images, texts, negatives, scale, groups):
    return _forward(walk, options, images, texts, negatives, scale, groups)[0]


def _forward(walk, options, images, texts, negatives, scale, groups):
    def local(images, texts, negatives, scale, groups):
        size = len(groups) * batch_devices(walk.mesh)
        rows, columns = numbered(texts, negatives, groups)
        zeros = jnp.zeros(len(images), images.dtype)
        column_zeros = jnp.zeros(len(columns.embeds), images.dtype)
        share = options.label_smoothing

        def visit(about_images, texts, about_texts):
            sums, hits, counts, spread, candidates = about_images
            column_sums, column_spread, column_candidates = about_texts
            logits = scale * images @ texts.embeds.T
            positive, counted = relations(options, groups, texts.groups, rows, texts.numbers)
            masked = jnp.where(counted, logits, -jnp.inf)
            real = (texts.numbers >= 0) & counted
            logits_or_0 = jnp.where(counted, logits, 0.0)
            about_images = (
                added(sums, masked, axis=1),
                hits + (positive * logits).sum(axis=1),
                counts + positive.sum(axis=1, dtype=logits.dtype),
                spread + logits_or_0.sum(axis=1),
                candidates + counted.sum(axis=1, dtype=logits.dtype),
            )
            about_texts = (
                added(column_sums, masked, axis=0),
                column_spread + logits_or_0.sum(axis=0),
                column_candidates + real.sum(axis=0, dtype=logits.dtype),
            )
            return about_images, about_texts

        def join(about_texts):
            sums, spread, candidates = about_texts
            return joined(sums), home(spread), home(candidates)

        nothing, column_nothing = no_normaliser(zeros), no_normaliser(column_zeros)
        about_images, about_texts = walk(
            visit,
            (nothing, zeros, zeros, zeros, zeros),
            columns,
            (column_nothing, column_zeros, column_zeros),
            join=join,
        )
        sums, hits, counts, spread, candidates = about_images
        column_sums, column_spread, column_candidates = about_texts
        b = len(images)
        normaliser, of_texts = sums.value(), column_sums.value()[:b]
        # Groups are symmetric: the positives of the columns are those of the rows.
        loss = normaliser + of_texts - 2 * (1 - share) * hits / counts
        loss -= share * (spread / candidates + column_spread[:b] / column_candidates[:b])
        loss += options.z_loss * (normaliser**2 + of_texts**2)
        kept = normaliser, of_texts, counts, candidates, column_candidates[:b]
        return jax.lax.psum(loss.sum(), BATCH_AXES) / (2 * size), kept

    value, kept = jax.shard_map(
        local,
        mesh=walk.mesh,
        in_specs=(_ROWS, _ROWS, _ROWS, _WHOLE, _ROWS),
        out_specs=(_WHOLE, _ROWS),
        check_vma=False,
    )(images, texts, negatives, scale, groups)
    return value, (images, texts, negatives, scale, groups, kept)


def _backward(walk, options, residuals, cotangent):
    def local(images, texts, negatives, scale, groups, kept, cotangent):
        normaliser, of_texts, counts, candidates, column_candidates = kept
        size, share = len(groups) * batch_devices(walk.mesh), options.label_smoothing
        rows, columns = numbered(texts, negatives, groups)
        # exp(-inf) = 0: no image competes for a hard negative.
        more = (0, len(columns.embeds) - len(texts))
        of_texts = jnp.pad(of_texts, more, constant_values=jnp.inf)
        column_candidates = jnp.pad(column_candidates, more, constant_values=jnp.inf)
        weight = 1 + 2 * options.z_loss * normaliser

        def visit(about_images, block, d_texts):
            (texts, of_texts, column_candidates), (d_images, d_scale) = block, about_images
            cosines = images @ texts.embeds.T
            positive, counted = relations(options, groups, texts.groups, rows, texts.numbers)
            logits = jnp.where(counted, scale * cosines, -jnp.inf)
            finite = jnp.where(of_texts < jnp.inf, of_texts, 0.0)
            slope = weight[:, None] * jnp.exp(logits - normaliser[:, None])
            slope += (1 + 2 * options.z_loss * finite) * jnp.exp(logits - of_texts)
            slope -= 2 * (1 - share) * positive / counts[:, None]
            if share:
                slope -= share * counted * (1 / candidates[:, None] + 1 / column_candidates)
            d_images += slope @ texts.embeds
            d_texts += slope.T @ images
            return (d_images, d_scale + (slope * cosines).sum()), d_texts

        start = jnp.zeros_like(images), jnp.zeros((), images.dtype)
        (d_images, d_scale), d_texts = walk(
            visit,
            start,
            (columns, of_texts, column_candidates),
            jnp.zeros_like(columns.embeds),
            join=home,
        )
        factor = cotangent / (2 * size)
        d_scale = factor * jax.lax.psum(d_scale, BATCH_AXES)
        d_images, d_texts = factor * scale * d_images, factor * scale * d_texts
        d_negatives = d_texts[len(texts) :].reshape(negatives.shape)
        return d_images, d_texts[: len(texts)], d_negatives, d_scale

    images, texts, negatives, scale, groups, kept = residuals
    gradients = jax.shard_map(
        local,
        mesh=walk.mesh,
        in_specs=(_ROWS, _ROWS, _ROWS, _WHOLE, _ROWS, _ROWS, _WHOLE),
        out_specs=(_ROWS, _ROWS, _ROWS, _WHOLE),
        check_vma=False,
    )(images, texts, negatives, scale, groups, kept, cotangent)
    return *gradients, np.zeros(groups.shape, jax.dtypes.float0)


_loss.defvjp(_forward, _backward)
