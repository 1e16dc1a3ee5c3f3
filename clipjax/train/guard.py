"""Which steps are not taken: those with numbers that are not finite, and outliers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from clipjax.config import GuardConfig

Record = dict[str, Array]

_LEAST_DEVIATION = 1e-3


def first_record() -> Record:
    """Returns what is remembered before the first step, whether outliers are looked for or not.

    A run may begin to look for them when it is resumed.

    Returns:
        `skipped`, int32: steps that were not taken; `mean` and `square`, exponential averages of
        the logarithm of the gradient norm and of its square, and `weight`, how much of an average
        they are, float32.
    """
    averages = {name: jnp.zeros((), jnp.float32) for name in ("mean", "square", "weight")}
    return {"skipped": jnp.zeros((), jnp.int32), **averages}


def is_outlier(
    config: GuardConfig, record: Record, grad_norm: Float[Array, ""], step: Array
) -> Bool[Array, ""]:
    """Returns whether a step must not be taken although its numbers are finite.

    Args:
        config: of the run.
        record: of the steps before.
        grad_norm: of the gradient, before it is clipped.
        step: counted from 0.
    """
    if not config.max_sigmas:
        return jnp.zeros((), bool)
    weight = jnp.maximum(record["weight"], jnp.finfo(jnp.float32).tiny)
    mean = record["mean"] / weight
    variance = record["square"] / weight - mean**2
    deviation = jnp.sqrt(jnp.maximum(variance, _LEAST_DEVIATION**2))
    far = _log(grad_norm) - mean > config.max_sigmas * deviation
    return far & (step >= config.memory_steps)


def next_record(
    config: GuardConfig, record: Record, grad_norm: Float[Array, ""], taken: Bool[Array, ""]
) -> Record:
    """Returns what is remembered after a step; the norms of steps not taken are forgotten.

    Args:
        config: of the run.
        record: of the steps before.
        grad_norm: of the gradient, before it is clipped.
        taken: whether the step was.
    """
    new: Record = {"skipped": record["skipped"] + (~taken).astype(jnp.int32)}
    log = _log(grad_norm)
    seen = {"mean": log, "square": log**2, "weight": jnp.ones_like(log)}
    keep = 1 - 1 / config.memory_steps
    return new | {
        name: jnp.where(taken, keep * record[name] + (1 - keep) * value, record[name])
        for name, value in seen.items()
    }


def _log(grad_norm: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(grad_norm, jnp.finfo(jnp.float32).tiny))
