"""The sigmoid loss in blocks: the value and the gradients of `sigmoid_loss`, flat in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from clipjax.core.mesh import BATCH_AXES, batch_devices
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


def streaming_sigmoid_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    bias: Scalar,
    groups: Groups | None = None,
    hard_negatives: HardNegatives | None = None,
    *,
    walk: Walk,
    options: LossOptions = PLAIN,
) -> Scalar:
    """Equals `sigmoid_loss`; each logit is computed once.

    The loss is a sum over pairs, so its gradient is known as soon as a pair is seen: value and
    gradient come from one walk, and nothing of it is kept.

    Args:
        image_embeds: unit length.
        text_embeds: unit length; row i is the caption of image i.
        scale: multiplies the cosine similarity.
        bias: is added after it.
        groups: see `sigmoid_loss`.
        hard_negatives: see `sigmoid_loss`.
        walk: how each device sees all texts.
        options: see `LossOptions`.
    """
    groups, hard_negatives = given(text_embeds, groups, hard_negatives)
    return _loss(walk, options, image_embeds, text_embeds, hard_negatives, scale, bias, groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(walk, options, images, texts, negatives, scale, bias, groups):
    rows = _ROWS, _ROWS, _ROWS, _WHOLE, _WHOLE, _ROWS

    def local(images, texts, negatives, scale, bias, groups):
        numbers, columns = numbered(texts, negatives, groups)

        def visit(total, texts, about_texts):
            loss, _, _, counted = _pairs(options, images, scale, bias, groups, numbers, texts)
            return total + (loss * counted).sum(), about_texts

        nothing = jnp.zeros(len(columns.embeds), images.dtype)
        start = jnp.zeros((), images.dtype)
        total, _ = walk(visit, start, columns, nothing, join=lambda about_texts: about_texts)
        return jax.lax.psum(total, BATCH_AXES) / (len(groups) * batch_devices(walk.mesh))

    return jax.shard_map(local, mesh=walk.mesh, in_specs=rows, out_specs=_WHOLE, check_vma=False)(
        images, texts, negatives, scale, bias, groups
    )


def _forward(walk, options, images, texts, negatives, scale, bias, groups):
    def local(images, texts, negatives, scale, bias, groups):
        numbers, columns = numbered(texts, negatives, groups)

        def visit(about_images, texts, d_texts):
            total, d_images, d_scale, d_bias = about_images
            loss, slope, cosines, counted = _pairs(
                options, images, scale, bias, groups, numbers, texts
            )
            slope = slope * counted
            about_images = (
                total + (loss * counted).sum(),
                d_images + slope @ texts.embeds,
                d_scale + (slope * cosines).sum(),
                d_bias + slope.sum(),
            )
            return about_images, d_texts + slope.T @ images

        def join(d_texts):
            return jax.lax.psum_scatter(d_texts, BATCH_AXES, scatter_dimension=0, tiled=True)

        nothing = jnp.zeros((), images.dtype)
        start = nothing, jnp.zeros_like(images), nothing, nothing
        (total, d_images, d_scale, d_bias), d_texts = walk(
            visit, start, columns, jnp.zeros_like(columns.embeds), join=join
        )
        total, d_scale, d_bias = jax.lax.psum((total, d_scale, d_bias), BATCH_AXES)
        size = len(groups) * batch_devices(walk.mesh)
        d_images, d_texts = scale * d_images / size, scale * d_texts / size
        d_negatives = d_texts[len(texts) :].reshape(negatives.shape)
        gradients = d_images, d_texts[: len(texts)], d_negatives, d_scale / size, d_bias / size
        return total / size, gradients

    return jax.shard_map(
        local,
        mesh=walk.mesh,
        in_specs=(_ROWS, _ROWS, _ROWS, _WHOLE, _WHOLE, _ROWS),
        out_specs=(_WHOLE, (_ROWS, _ROWS, _ROWS, _WHOLE, _WHOLE)),
        check_vma=False,
    )(images, texts, negatives, scale, bias, groups)


def _backward(_walk, _options, gradients, cotangent):
    d_images = gradients[0]
    scaled = jax.tree.map(lambda gradient: cotangent * gradient, gradients)
    return *scaled, np.zeros(len(d_images), jax.dtypes.float0)


_loss.defvjp(_forward, _backward)


def _pairs(options, images, scale, bias, groups, numbers, texts):
    """Returns loss, slope with respect to the logit, cosine and whether it counts, of each pair."""
    cosines = images @ texts.embeds.T
    logits = scale * cosines + bias
    positive, counted = relations(options, groups, texts.groups, numbers, texts.numbers)
    signed = jnp.where(positive, logits, -logits)
    # -log sigmoid(x) and sigmoid(-x) from one exponential, which is most of the time.
    small = jnp.exp(-jnp.abs(signed))
    loss = jnp.maximum(-signed, 0) + jnp.log1p(small)
    wrong = jnp.where(signed >= 0, small, 1.0) / (1 + small)
    return loss, jnp.where(positive, -wrong, wrong), cosines, counted
