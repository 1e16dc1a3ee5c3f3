"""Batch norm, Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class BatchNorm(nnx.Module):
    """Normalises channels by the statistics of the batch in training, else by running ones.

    Under `jax.jit` the batch is the global one: a mean over a split axis is a mean over all
    devices. The running statistics are `nnx.BatchStat`s: no optimizer sees them, they travel as
    `model_state`. As in PyTorch the running variance is unbiased, that of the batch is not.

    Args:
        channels: size of the last axis.
        eps: added to the variance.
        momentum: share of a batch in the running statistics.
        frozen: normalise by the running statistics in training too, and keep them.
        dtype: of the result; statistics are computed in float32.
        start: initial gain.
    """

    def __init__(
        self,
        channels: int,
        *,
        eps: float,
        momentum: float,
        frozen: bool,
        dtype: jnp.dtype,
        start: float = 1.0,
    ):
        self.eps, self.momentum, self.frozen, self.dtype = eps, momentum, frozen, dtype
        self.scale = nnx.Param(jnp.full(channels, start, jnp.float32), axes=(None,))
        self.bias = nnx.Param(jnp.zeros(channels), axes=(None,))
        self.mean = nnx.BatchStat(jnp.zeros(channels), axes=(None,))
        self.variance = nnx.BatchStat(jnp.ones(channels), axes=(None,))

    def __call__(
        self, x: Float[Array, "batch *places channels"], *, train: bool
    ) -> Float[Array, "batch *places channels"]:
        """Returns x normalised; in training the running statistics move."""
        mean, variance = self.mean[...], self.variance[...]
        if train and not self.frozen:
            wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
            mean = wide.mean(axes)
            variance = jnp.square(wide - mean).mean(axes)
            self._move(mean, variance, math.prod(x.shape[:-1]))
        gain = jax.lax.rsqrt(variance + self.eps) * self.scale[...]
        return ((x.astype(jnp.float32) - mean) * gain + self.bias[...]).astype(self.dtype)

    def _move(self, mean: jax.Array, variance: jax.Array, count: int) -> None:
        mean, variance = jax.lax.stop_gradient((mean, variance))
        unbiased = variance * (count / max(count - 1, 1))
        self.mean[...] += self.momentum * (mean - self.mean[...])
        self.variance[...] += self.momentum * (unbiased - self.variance[...])


def freeze_batch_norms(model: nnx.Module, trained: Mapping[str, bool | tuple[bool, ...]]) -> None:
    """Keeps the statistics of each batch norm whose gain or bias is not trained.

    Of a stack of layers in one parameter all are frozen as soon as one of them is.

    Args:
        model: just built; later models are not changed.
        trained: for each parameter whether it is, or which of its layers are.
    """
    for path, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):
            place = "/".join(map(str, path))
            if not all(_whole(trained.get(f"{place}/{part}", True)) for part in ("scale", "bias")):
                module.frozen = True


def _whole(trained: bool | tuple[bool, ...]) -> bool:
    return trained if isinstance(trained, bool) else all(trained)
