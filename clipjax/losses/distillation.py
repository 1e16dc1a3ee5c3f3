"""Learning from the similarities, or from the embeddings, of a teacher."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from clipjax.core.mesh import BATCH_AXES, batch_devices
from clipjax.losses.online import (
    added,
    home,
    joined,
    no_expectation,
    no_normaliser,
    weighted,
)
from clipjax.losses.options import Embeds, Scalar
from clipjax.losses.streaming import Walk

TeacherEmbeds = Float[Array, "batch teacher_embed"]

_ROWS, _WHOLE = PartitionSpec(BATCH_AXES), PartitionSpec()


def distillation_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    teacher_images: TeacherEmbeds,
    teacher_texts: TeacherEmbeds,
    teacher_scale: Scalar,
) -> Scalar:
    """Cross-entropy of the student's similarities to the teacher's: the readable reference.

    The teacher's softmax over the texts of an image is the target of the student's, and the other
    way around. Widths of student and teacher may differ. The teacher gets no gradient.

    Args:
        image_embeds: of the student, unit length.
        text_embeds: of the student, unit length.
        scale: multiplies the student's cosine similarity.
        teacher_images: of the same images, unit length.
        teacher_texts: of the same texts, unit length.
        teacher_scale: multiplies the teacher's cosine similarity.

    Returns:
        The loss in nats, averaged over the batch and the two directions; its least value is the
        mean entropy of the teacher.

    Source: Vasu et al. 2024, "MobileCLIP", section 3.1, https://arxiv.org/abs/2311.17049; Wu et al.
    2023, "TinyCLIP", section 3.1, https://arxiv.org/abs/2309.12314.
    """
    logits = scale * image_embeds @ text_embeds.T
    targets = jax.lax.stop_gradient(teacher_scale * teacher_images @ teacher_texts.T)
    return (_cross_entropy(logits, targets) + _cross_entropy(logits.T, targets.T)) / 2


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return -(jax.nn.softmax(targets) * jax.nn.log_softmax(logits)).sum(axis=1).mean()


def streaming_distillation_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    teacher_images: TeacherEmbeds,
    teacher_texts: TeacherEmbeds,
    teacher_scale: Scalar,
    *,
    walk: Walk,
) -> Scalar:
    """Equals `distillation_loss`; the texts of the teacher travel with those of the student.

    Forward, the mean of the student's logits under the teacher's softmax is summed online with the
    normalisers of both. Backward the four normalisers of a pair are all that is kept.

    Args:
        image_embeds: see `distillation_loss`.
        text_embeds: see `distillation_loss`.
        scale: see `distillation_loss`.
        teacher_images: see `distillation_loss`.
        teacher_texts: see `distillation_loss`.
        teacher_scale: see `distillation_loss`.
        walk: how each device sees all texts.
    """
    student = image_embeds, text_embeds, scale
    teacher = teacher_images, teacher_texts, jnp.asarray(teacher_scale)
    return _loss(walk, student, teacher)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(walk, student, teacher):
    return _forward(walk, student, teacher)[0]


def _forward(walk, student, teacher):
    def local(student, teacher):
        (images, texts, scale), (teacher_images, teacher_texts, teacher_scale) = student, teacher
        size = len(images) * batch_devices(walk.mesh)

        def visit(about_images, block, about_texts):
            texts, teacher_texts = block
            logits = scale * images @ texts.T
            targets = teacher_scale * teacher_images @ teacher_texts.T
            found = (
                (added(sums, logits, axis=axis), weighted(means, targets, logits, axis=axis))
                for axis, (sums, means) in ((1, about_images), (0, about_texts))
            )
            return tuple(found)

        def join(about_texts):
            sums, means = about_texts
            return joined(sums), joined(means)

        zeros = jnp.zeros(len(images), images.dtype)
        nothing = no_normaliser(zeros), no_expectation(zeros)
        found = walk(visit, nothing, (texts, teacher_texts), nothing, join=join)
        total = sum((sums.value() - means.value()).sum() for sums, means in found)
        kept = tuple((sums.value(), means.normaliser()) for sums, means in found)
        return jax.lax.psum(total, BATCH_AXES) / (2 * size), kept

    of_model = _ROWS, _ROWS, _WHOLE
    value, kept = jax.shard_map(
        local,
        mesh=walk.mesh,
        in_specs=(of_model, of_model),
        out_specs=(_WHOLE, _ROWS),
        check_vma=False,
    )(student, teacher)
    return value, (student, teacher, kept)


def _backward(walk, residuals, cotangent):
    def local(student, teacher, kept, cotangent):
        (images, texts, scale), (teacher_images, teacher_texts, teacher_scale) = student, teacher
        (of_images, teacher_of_images), of_texts = kept

        def visit(about_images, block, d_texts):
            (texts, teacher_texts, (of_texts, teacher_of_texts)) = block
            d_images, d_scale = about_images
            cosines = images @ texts.T
            logits = scale * cosines
            targets = teacher_scale * teacher_images @ teacher_texts.T
            slope = jnp.exp(logits - of_images[:, None]) + jnp.exp(logits - of_texts)
            slope -= jnp.exp(targets - teacher_of_images[:, None])
            slope -= jnp.exp(targets - teacher_of_texts)
            about_images = d_images + slope @ texts, d_scale + (slope * cosines).sum()
            return about_images, d_texts + slope.T @ images

        start = jnp.zeros_like(images), jnp.zeros((), images.dtype)
        (d_images, d_scale), d_texts = walk(
            visit, start, (texts, teacher_texts, of_texts), jnp.zeros_like(texts), join=home
        )
        factor = cotangent / (2 * len(images) * batch_devices(walk.mesh))
        d_scale = factor * jax.lax.psum(d_scale, BATCH_AXES)
        return factor * scale * d_images, factor * scale * d_texts, d_scale

    of_model = _ROWS, _ROWS, _WHOLE
    student, teacher, kept = residuals
    gradients = jax.shard_map(
        local,
        mesh=walk.mesh,
        in_specs=(of_model, of_model, _ROWS, _WHOLE),
        out_specs=of_model,
        check_vma=False,
    )(student, teacher, kept, cotangent)
    return gradients, None


_loss.defvjp(_forward, _backward)


def feature_loss(
    embeds: Embeds, teacher_embeds: Embeds, *, distance: Literal["squared", "cosine"] = "squared"
) -> Scalar:
    """Mean distance of the student's embeddings to the teacher's: reference and fast version.

    Args:
        embeds: of the student, of the width of the teacher's.
        teacher_embeds: of the same images or texts; they get no gradient.
        distance: the mean square of the differences of the coordinates, or one minus the cosine;
            of unit vectors the former is 2 / width times the latter.

    Source: Yang et al. 2024, "CLIP-KD", section 3.3, https://arxiv.org/abs/2307.12732.
    """
    teacher_embeds = jax.lax.stop_gradient(teacher_embeds)
    if distance == "squared":
        return jnp.mean((embeds - teacher_embeds) ** 2)
    products = (embeds * teacher_embeds).sum(axis=1)
    lengths = jnp.linalg.norm(embeds, axis=1) * jnp.linalg.norm(teacher_embeds, axis=1)
    return 1 - jnp.mean(products / jnp.maximum(lengths, 1e-12))
