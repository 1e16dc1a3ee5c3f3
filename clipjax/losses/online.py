"""Sums of exponentials over logits that are seen block by block, and over the devices of a mesh.

Source: Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867.
"""

import functools
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from clipjax.core.mesh import BATCH_AXES


class Normaliser(NamedTuple):
    """A log-sum-exp on the way: the largest so far, the sum relative to it."""

    peak: jax.Array
    total: jax.Array

    def value(self) -> jax.Array:
        """Returns the log-sum-exp."""
        return self.peak + jnp.log(self.total)


class Expectation(NamedTuple):
    """A mean under a softmax on the way: peak and sum of its weights, and the weighted sum."""

    peak: jax.Array
    total: jax.Array
    weighted: jax.Array

    def value(self) -> jax.Array:
        """Returns the mean."""
        return self.weighted / self.total

    def normaliser(self) -> jax.Array:
        """Returns the log-sum-exp of the logits of the softmax."""
        return self.peak + jnp.log(self.total)


def no_normaliser(zeros: jax.Array) -> Normaliser:
    """Returns the log-sum-exp of nothing."""
    return Normaliser(zeros - jnp.inf, zeros)


def no_expectation(zeros: jax.Array) -> Expectation:
    """Returns the mean of nothing."""
    return Expectation(zeros - jnp.inf, zeros, zeros)


def added(sums: Normaliser, logits: jax.Array, *, axis: int) -> Normaliser:
    """Returns the sums with more logits; those of minus infinity do not count.

    Args:
        sums: so far.
        logits: of a block.
        axis: that is summed over.
    """
    peak, finite = _peaks(sums.peak, logits, axis)
    parts = jnp.exp(logits - jnp.expand_dims(finite, axis)).sum(axis=axis)
    return Normaliser(peak, sums.total * jnp.exp(apart(sums.peak, peak)) + parts)


def weighted(sums: Expectation, logits: jax.Array, values: jax.Array, *, axis: int) -> Expectation:
    """Returns the sums with more values and the logits of their weights.

    Args:
        sums: so far.
        logits: of the weights of a block; those of minus infinity do not count.
        values: whose mean is wanted.
        axis: that is summed over.
    """
    peak, finite = _peaks(sums.peak, logits, axis)
    shares = jnp.exp(logits - jnp.expand_dims(finite, axis))
    factor = jnp.exp(apart(sums.peak, peak))
    return Expectation(
        peak,
        sums.total * factor + shares.sum(axis=axis),
        sums.weighted * factor + (shares * values).sum(axis=axis),
    )


def apart(old: jax.Array, new: jax.Array) -> jax.Array:
    """Returns old - new where the new one is finite: minus infinity less itself is no number."""
    return old - jnp.where(new > -jnp.inf, new, 0.0)


Sums = TypeVar("Sums", Normaliser, Expectation)


def joined(sums: Sums) -> Sums:
    """Returns the sums of all devices, each device those of its own part; inside `shard_map`.

    Args:
        sums: of this device, over its rows, of the columns of all devices.
    """
    peak = jax.lax.pmax(sums.peak, BATCH_AXES)
    factor = jnp.exp(apart(sums.peak, peak))
    devices = jax.lax.axis_size(BATCH_AXES)
    totals = [home(total * factor) for total in sums[1:]]
    return type(sums)(own(peak, len(peak) // devices), *totals)


home = functools.partial(
    jax.lax.psum_scatter, axis_name=BATCH_AXES, scatter_dimension=0, tiled=True
)
"""Sums over all devices, of which each keeps its own part; inside `shard_map`."""


def own(array: jax.Array, count: int) -> jax.Array:
    """Returns the part of this device of an array that all devices have; inside `shard_map`."""
    start = jax.lax.axis_index(BATCH_AXES) * count
    return jax.lax.dynamic_slice_in_dim(array, start, count)


def with_columns(total: jax.Array, part: jax.Array, first: jax.Array) -> jax.Array:
    """Returns a sum to whose last axis a block is added.

    Args:
        total: so far.
        part: of the block.
        first: where the block begins.
    """
    old = jax.lax.dynamic_slice_in_dim(total, first, part.shape[-1], axis=-1)
    return jax.lax.dynamic_update_slice_in_dim(total, old + part, first, axis=-1)


def _peaks(peak: jax.Array, logits: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    peak = jnp.maximum(peak, logits.max(axis=axis))
    # A row that has met no candidate yet has a peak of minus infinity.
    return peak, jnp.where(peak > -jnp.inf, peak, 0.0)
