"""A large batch on few devices: encoded in parts, one after another, by one program.

`encoded` is gradient caching (Gao et al. 2021, https://arxiv.org/abs/2101.06983) as JAX says it:
the backward pass encodes each part again, so that the activations of one part are in memory at a
time, while the loss sees the embeddings of all. The gradient is that of the whole batch.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Key

from clipjax.core.mesh import BATCH_AXES

Encode = Callable[[Any, Key[Array, ""]], Any]


def encoded(encode: Encode, batch: Any, parts: int, key: Key[Array, ""]) -> Any:
    """Returns what `encode` makes of each part, in the order of the batch.

    Args:
        encode: (part of the batch, key) -> arrays whose first axis is that of the part.
        batch: arrays whose first axes are the batch; rows that a device holds stay on it.
        parts: how many; the rows of a device must divide into them.
        key: each part gets its own, the same in the forward and the backward pass.
    """
    keys = jax.random.split(key, parts)

    @jax.checkpoint
    def body(part: tuple[Any, Key[Array, ""]]) -> Any:
        return encode(*part)

    _, out = jax.lax.scan(lambda _, part: (None, body(part)), None, (_cut(batch, parts), keys))
    return jax.tree.map(_joined, out)


def mean_over_parts(
    loss: Callable[[Any, Key[Array, ""]], Any],
    batch: Any,
    parts: int,
    key: Key[Array, ""],
) -> Any:
    """Returns the means of losses that see one part at a time: plain gradient accumulation.

    Args:
        loss: (part of the batch, key) -> scalar, or a tree of them.
        batch: as of `encoded`.
        parts: as of `encoded`.
        key: as of `encoded`.
    """
    keys = jax.random.split(key, parts)
    body = jax.checkpoint(lambda part: loss(*part))
    _, values = jax.lax.scan(lambda _, part: (None, body(part)), None, (_cut(batch, parts), keys))
    return jax.tree.map(lambda of_parts: of_parts.mean(axis=0), values)


def _cut(batch: Any, parts: int) -> Any:
    """Returns arrays [parts, rows of a part, ...]; a part has as many rows of each device."""

    def cut(x: jax.Array) -> jax.Array:
        devices = _devices()
        x = x.reshape(devices, parts, -1, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(parts, -1, *x.shape[3:])
        return _constrained(x, PartitionSpec(None, BATCH_AXES))

    return jax.tree.map(cut, batch)


def _joined(x: jax.Array) -> jax.Array:
    parts, devices = len(x), _devices()
    x = x.reshape(parts, devices, -1, *x.shape[2:]).swapaxes(0, 1)
    return _constrained(x.reshape(-1, *x.shape[3:]), PartitionSpec(BATCH_AXES))


def _devices() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def _constrained(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)
