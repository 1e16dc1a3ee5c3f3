"""Optimizers of contrastive pretraining: clipping, a direction, decay and a learning rate."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from clipjax.config import OptimConfig
from clipjax.optim.layerwise import scale_by_factored_rms, scale_by_trust_ratio
from clipjax.optim.muon import matrices_of, scale_by_muon
from clipjax.optim.names import Parameters, along_layers, by_parameter, layers_of, matching
from clipjax.optim.rates import rate_factors, scale_by_factors
from clipjax.optim.schedules import learning_rate

_NEVER_DECAYED = ("bias", "scale", "gain", "log_logit_scale", "logit_bias", "class_token")


def decay_mask(params: Iterable[str]) -> dict[str, bool]:
    """Returns which parameters decay: weights, tables and positions, not gains and biases.

    >>> decay_mask(["image/norm/scale", "image/project/kernel", "log_logit_scale"])
    {'image/norm/scale': False, 'image/project/kernel': True, 'log_logit_scale': False}
    """
    return {name: name.rpartition("/")[2] not in _NEVER_DECAYED for name in params}


def make_optimizer(
    config: OptimConfig, schedule: optax.Schedule | int, parameters: Parameters | None = None
) -> optax.GradientTransformation:
    """Returns clipping, the direction of a kind, decoupled decay and the schedule, in this order.

    Layers that are stacked in one parameter are treated like layers with parameters of their own.

    Args:
        config: kind, constants and patterns.
        schedule: learning rate of each step, or the number of steps of a run whose schedule is
            that of the config.
        parameters: of the run; needed for muon and for what patterns or layers choose.

    Raises:
        UsageError: if a pattern matches no parameter.

    Source: Loshchilov and Hutter 2017, "Decoupled Weight Decay Regularization",
        https://arxiv.org/abs/1711.05101; Chen et al. 2023, "Symbolic Discovery of Optimization
        Algorithms" (lion), https://arxiv.org/abs/2302.06675; the others where they are built.
    """
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if isinstance(schedule, int):
        schedule = learning_rate(config, schedule)
    rate = optax.scale_by_learning_rate(schedule)
    if config.rates or config.layer_decay_image < 1 or config.layer_decay_text < 1:
        assert parameters is not None, "rates are chosen by the names of all parameters"
        rate = scale_by_factors(rate, rate_factors(config, parameters))
    # Checkpoints hold the states in this order: what is added must not come between.
    stages = [clip, _direction(config, parameters), _decay(config, parameters)]
    if config.kind == "lamb":
        stages.append(scale_by_trust_ratio(decay_mask))
    return optax.chain(*stages, rate)


def _direction(config: OptimConfig, parameters: Parameters | None) -> optax.GradientTransformation:
    """Returns what turns a gradient into an update that is to be subtracted."""
    dtype, momentum = jnp.dtype(config.moments_dtype), config.beta1
    adam = optax.scale_by_adam(momentum, config.beta2, config.eps, mu_dtype=dtype)
    if config.kind == "lion":
        return optax.scale_by_lion(momentum, config.beta2, mu_dtype=dtype)
    if config.kind == "muon":
        assert parameters is not None, "matrices are found by the axes of all parameters"
        return scale_by_muon(matrices_of(parameters), adam, momentum, dtype)
    if config.kind == "sgd":
        trace = optax.trace(momentum, config.nesterov, accumulator_dtype=dtype)
        return trace if momentum else optax.identity()
    if config.kind == "adafactor":
        scale = scale_by_factored_rms(config.beta2)
        average = optax.ema(momentum, debias=False, accumulator_dtype=dtype)
        return optax.chain(scale, average) if momentum else scale
    return adam


def _decay(config: OptimConfig, parameters: Parameters | None) -> optax.GradientTransformation:
    """Returns weight decay; in a stack of which some layers do not decay, of the others."""
    if not config.no_decay:
        return optax.add_decayed_weights(config.weight_decay, decay_mask)
    assert parameters is not None, "what does not decay is chosen by the names of all parameters"
    layers = layers_of(parameters.shapes)
    names = [name for parts in layers.values() for name in parts]
    decays = decay_mask(names)
    for pattern in config.no_decay:
        found = matching("no_decay", pattern, names)
        decays |= {name: pattern.startswith("!") for name in found}
    which = by_parameter(layers, decays)

    def mask(params: Any) -> dict[str, bool]:
        return {name: bool(which[name]) for name in params}

    decay = optax.add_decayed_weights(config.weight_decay, mask)

    def shown(name: str, param: jax.Array) -> jax.Array:
        of_layers = which[name]
        if isinstance(of_layers, tuple):
            param = param * along_layers(of_layers, param.shape)
        return param

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        parts = {name: shown(name, param) for name, param in params.items()}
        return decay.update(updates, state, parts)

    return optax.GradientTransformation(decay.init, update)


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
