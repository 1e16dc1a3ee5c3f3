"""The objective of a linear probe, computed over the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from clipjax.core.mesh import BATCH_AXES, batch_devices, local_rows, put_rows, replicated

HostWeights = Float[np.ndarray, "rows dim_and_intercept"]
Objective = Callable[[HostWeights, float], tuple[float, HostWeights]]

_BLOCK_LOGITS = 1 << 22


def probe_objective(mesh: Mesh) -> Callable[[np.ndarray, np.ndarray, int], Objective]:
    """Returns what makes objectives that equal `clipjax.evals.logistic.numpy_objective`'s.

    Features stay on the devices, each of which has its part of the images; the logits of a block of
    them at a time are there besides. Every process must call an objective with the same weights and
    gets the same value and gradient. Products are float32; sums over blocks and what C enters are
    float64.

    Args:
        mesh: images are split over all its axes but `tensor`.
    """

    def make(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Objective:
        devices = batch_devices(mesh)
        block = min(-(-len(features) // devices), max(1, _BLOCK_LOGITS // num_classes))
        size = -(-len(features) // (block * devices)) * block * devices
        mine = local_rows(mesh, size)
        own = mine[mine < len(features)]

        def put(values: np.ndarray, dtype: Any) -> jax.Array:
            rows = np.zeros((len(mine), *values.shape[1:]), dtype)
            rows[: len(own)] = values[own]
            return put_rows(rows, mine, size, mesh)

        data = (
            put(features, np.float32),
            put(labels, np.int32),
            put(np.ones(len(features)), np.float32),
        )
        program = _program(mesh, block)

        def objective(weights: HostWeights, c: float) -> tuple[float, HostWeights]:
            with jax.set_mesh(mesh):
                losses, gradient = program(weights.astype(np.float32), *data)
            loss = np.asarray(losses.addressable_data(0)).sum(dtype=np.float64)
            out = c * np.asarray(gradient.addressable_data(0), np.float64)
            out[:, :-1] += weights[:, :-1]
            return 0.5 * float(np.vdot(weights[:, :-1], weights[:, :-1])) + c * float(loss), out

        return objective

    return make


def _program(mesh: Mesh, block: int) -> Any:
    """Returns the compiled sums: losses of every block, and the gradient of all of them."""

    def local(weights: Array, features: Array, labels: Array, counts: Array) -> tuple[Array, Array]:
        def visit(gradient: Array, rows: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            x, y, count = rows
            logits = _product(x, weights[:, :-1].T) + weights[:, -1]
            losses, residuals = losses_and_residuals(logits, y)
            residuals *= count[:, None]
            slopes = _product(residuals.T, x)
            of_block = jnp.concatenate([slopes, residuals.sum(axis=0)[:, None]], axis=1)
            return gradient + of_block, (losses * count).sum()

        blocks = jax.tree.map(
            lambda a: a.reshape(-1, block, *a.shape[1:]), (features, labels, counts)
        )
        gradient, losses = jax.lax.scan(visit, jnp.zeros_like(weights), blocks)
        return losses, jax.lax.psum(gradient, BATCH_AXES)

    whole, rows = PartitionSpec(), PartitionSpec(BATCH_AXES)
    over_mesh = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, rows, rows, rows),
        out_specs=(rows, whole),
        check_vma=False,
    )
    return jax.jit(over_mesh, out_shardings=replicated(mesh))


def losses_and_residuals(
    logits: Float[Array, "images rows"], labels: Int[Array, " images"]
) -> tuple[Float[Array, " images"], Float[Array, "images rows"]]:
    """Returns the log losses, and probability minus truth.

    Both keep their digits where the truth is nearly certain: what the other classes have is added
    up, not taken from one.

    Args:
        logits: one column for two classes, of the second against zero; else one a class.
        labels: the true classes.
    """
    if logits.shape[1] == 1:
        sign = jnp.where(labels == 1, -1.0, 1.0)
        against = sign * logits[:, 0]
        return jax.nn.softplus(against), (sign * jax.nn.sigmoid(against))[:, None]
    truth = labels[:, None] == jnp.arange(logits.shape[1])
    shifted = logits - logits.max(axis=1, keepdims=True)
    of_truth = jnp.where(truth, shifted, 0).sum(axis=1)
    odds = jnp.where(truth, 0, jnp.exp(shifted))
    others = odds.sum(axis=1)
    total = others + jnp.exp(of_truth)
    losses = jnp.log1p(others + jnp.expm1(of_truth)) - of_truth
    return losses, jnp.where(truth, -others[:, None], odds) / total[:, None]


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
