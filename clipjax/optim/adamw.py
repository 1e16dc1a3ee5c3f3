"""AdamW as contrastive pretraining uses it, Loshchilov and Hutter 2017, arXiv:1711.05101."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.config import OptimConfig

_NEVER_DECAYED = ("bias", "scale", "gain", "log_logit_scale", "logit_bias", "class_token")


def learning_rate(config: OptimConfig, num_steps: int) -> optax.Schedule:
    """Returns the learning rate of a step: linear from zero, then cosine to zero or constant.

    Source: Radford et al. 2021, table 19; the cosine: Loshchilov and Hutter 2016,
        https://arxiv.org/abs/1608.03983.
    """
    peak, warmup = config.peak_learning_rate, config.warmup_steps
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    else:
        after = optax.cosine_decay_schedule(peak, max(num_steps - warmup, 1))
    if not warmup:
        return after
    # (step + 1) / warmup: the first step already learns.
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def decay_mask(params: Mapping[str, Any]) -> dict[str, bool]:
    """Returns which parameters decay: weights, tables and positions, not gains and biases.

    >>> decay_mask({"image/norm/scale": 0, "image/project/kernel": 0, "log_logit_scale": 0})
    {'image/norm/scale': False, 'image/project/kernel': True, 'log_logit_scale': False}
    """
    return {name: name.rpartition("/")[2] not in _NEVER_DECAYED for name in params}


def make_optimizer(config: OptimConfig, num_steps: int) -> optax.GradientTransformation:
    """Returns clipping, Adam, decoupled decay and the schedule, in this order."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate(config, num_steps)),
    )


def update_average(
    average: Mapping[str, jax.Array],
    params: Mapping[str, jax.Array],
    step: jax.Array,
    decay: float,
) -> dict[str, jax.Array]:
    """Returns the moving average after `step` updates, statistics included; empty stays empty.

    The decay is warmed up, min(decay, (1 + step) / (10 + step)), so that early parameters are
    forgotten soon (the rule of TensorFlow's ExponentialMovingAverage).
    """
    now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return {name: old + (1 - now) * (params[name] - old) for name, old in average.items()}
