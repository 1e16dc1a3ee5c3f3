"""A student that sees part of an image predicts what its own average sees of the whole.

Both map their features to prototypes; the teacher's distribution over them is centred, which keeps
one prototype from taking all, and sharpened, which keeps all from being equally likely.

Source: Caron et al. 2021, "DINO", section 3.1, https://arxiv.org/abs/2104.14294; Zhou et al. 2022,
"iBOT", section 3.2, https://arxiv.org/abs/2111.07832 (masked patches). Beside a contrastive loss:
Naeem et al. 2023, "SILC", section 3, https://arxiv.org/abs/2310.13355; Maninis et al. 2024, "TIPS",
section 3, https://arxiv.org/abs/2410.16512; Tschannen et al. 2025, "SigLIP 2", section 2.3,
https://arxiv.org/abs/2502.14786.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clipjax.core.partition import constrain_batch, gather_table
from clipjax.losses.online import added, no_expectation, no_normaliser, weighted, with_columns

Features = Float[Array, "batch places width"]
TeacherFeatures = Float[Array, "batch #places teacher_width"]
"""One place for all that the student sees, or one for each."""
Center = Float[Array, " prototypes"]


class Prototypes(NamedTuple):
    """The last map of a head and the temperature of its softmax.

    Attributes:
        kernel: of unit columns, one a prototype.
        temperature: divides the logits (DINO: 0.1 for the student, 0.04 to 0.07 for the teacher).
    """

    kernel: Float[Array, "width prototypes"]
    temperature: float


def prototype_losses(
    student: Features,
    teacher: TeacherFeatures,
    of_student: Prototypes,
    of_teacher: Prototypes,
    center: Center,
) -> Float[Array, "batch places"]:
    """Cross-entropy of the student's prototypes to the teacher's: the readable reference.

    Args:
        student: unit features of crops or patches.
        teacher: unit features that each of them is to predict; they get no gradient.
        of_student: prototypes of the student.
        of_teacher: prototypes of the teacher; they get no gradient.
        center: is subtracted from the teacher's logits, see `updated_center`.

    Returns:
        The cross-entropy at each place, in nats.
    """
    logits = student @ of_student.kernel / of_student.temperature
    targets = (teacher @ of_teacher.kernel - center) / of_teacher.temperature
    targets = jax.lax.stop_gradient(jax.nn.softmax(targets))
    return -(targets * jax.nn.log_softmax(logits)).sum(axis=-1)


def chunked_prototype_losses(
    student: Features,
    teacher: TeacherFeatures,
    of_student: Prototypes,
    of_teacher: Prototypes,
    center: Center,
    *,
    block: int,
) -> Float[Array, "batch places"]:
    """Equals `prototype_losses`; there are logits of `block` prototypes at a time.

    Args:
        student: see `prototype_losses`.
        teacher: see `prototype_losses`.
        of_student: see `prototype_losses`.
        of_teacher: see `prototype_losses`; as many as of the student.
        center: see `prototype_losses`.
        block: most prototypes at a time.
    """
    temperatures = of_student.temperature, of_teacher.temperature
    pair = (student, of_student.kernel), (teacher, of_teacher.kernel, center)
    return _losses(block, temperatures, *pair)


def updated_center(
    center: Center,
    teacher: TeacherFeatures,
    of_teacher: Prototypes,
    momentum: float = 0.9,
) -> Center:
    """Returns the moving average of the teacher's mean logits, without its temperature.

    The mean of the logits is the logit of the mean: there are no logits of all features.

    Args:
        center: so far.
        teacher: unit features of the batch.
        of_teacher: prototypes of the teacher.
        momentum: share of what was there before.
    """
    mean = teacher.mean(axis=(0, 1))
    return momentum * center + (1 - momentum) * (mean @ of_teacher.kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _losses(block, temperatures, student, teacher):
    return _forward(block, temperatures, student, teacher)[0]


def _forward(block, temperatures, student, teacher):
    student, teacher = _gathered(student), _gathered(teacher)
    count = student[1].shape[1]

    def visit(sums, number):
        _, fresh, logits, targets = _block(number, block, temperatures, student, teacher)
        seen, targets = jnp.where(fresh, logits, -jnp.inf), jnp.where(fresh, targets, -jnp.inf)
        return (added(sums[0], seen, axis=2), weighted(sums[1], targets, logits, axis=2)), None

    zeros = constrain_batch(jnp.zeros(student[0].shape[:2], student[0].dtype))
    start = no_normaliser(zeros), no_expectation(zeros)
    (sums, means), _ = jax.lax.scan(visit, start, jnp.arange(-(-count // block)))
    kept = sums.value(), means.normaliser()
    return sums.value() - means.value(), (student, teacher, kept)


def _backward(block, temperatures, residuals, cotangent):
    student, teacher, (normaliser, of_teacher) = residuals
    features, kernel = student

    def visit(gradients, number):
        d_features, d_kernel = gradients
        first, fresh, logits, targets = _block(number, block, temperatures, student, teacher)
        slope = jnp.exp(logits - normaliser[..., None]) - jnp.exp(targets - of_teacher[..., None])
        slope = jnp.where(fresh, slope * cotangent[..., None] / temperatures[0], 0.0)
        part = jax.lax.dynamic_slice_in_dim(kernel, first, slope.shape[2], axis=1)
        d_features += jnp.einsum("bpk,wk->bpw", slope, part)
        d_kernel = with_columns(d_kernel, jnp.einsum("bpw,bpk->wk", features, slope), first)
        return (constrain_batch(d_features), d_kernel), None

    start = jnp.zeros_like(features), jnp.zeros_like(kernel)
    gradients, _ = jax.lax.scan(visit, start, jnp.arange(-(-kernel.shape[1] // block)))
    return gradients, None


_losses.defvjp(_forward, _backward)


def _gathered(model):
    features, kernel, *rest = model
    return features, gather_table(kernel), *rest


def _block(number, block, temperatures, student, teacher):
    """Returns the first prototype of a block, which are new, and the logits of both.

    The last block ends with the prototypes and begins in the one before.
    """
    (features, kernel), (teacher_features, teacher_kernel, center) = student, teacher
    size = min(block, kernel.shape[1])
    first = jnp.minimum(number * block, kernel.shape[1] - size)

    def logits(features, kernel):
        part = jax.lax.dynamic_slice_in_dim(kernel, first, size, axis=1)
        return constrain_batch(jnp.einsum("bpw,wk->bpk", features, part))

    offset = jax.lax.dynamic_slice_in_dim(center, first, size)
    targets = (logits(teacher_features, teacher_kernel) - offset) / temperatures[1]
    fresh = first + jnp.arange(size) >= number * block
    seen = logits(features, kernel) / temperatures[0]
    return first, fresh, seen, jnp.broadcast_to(targets, seen.shape)
