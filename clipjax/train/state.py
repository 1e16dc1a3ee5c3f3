"""All that training changes, hence all that a checkpoint of the model holds."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clipjax.config import TrainConfig
from clipjax.core.partition import tree_shardings
from clipjax.core.sharding_report import state_leaves, warnings
from clipjax.models import (
    init_model_state,
    init_params,
    model_state_names,
    param_axes,
    param_shapes,
)
from clipjax.models.lora import init_lora, merged
from clipjax.optim import Parameters, Trained, make_optimizer, run_learning_rate, trained_in_run
from clipjax.train.guard import first_record
from clipjax.train.self_distill import first_average


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """The training state, a plain pytree.

    Fields have no shapes in their annotations: eval_shape and restore fill them with other things.

    Attributes:
        step: updates made or skipped, int32.
        params: float32 arrays by name, low-rank factors included.
        model_state: what the model itself accumulates (batch-norm statistics); empty for most.
        opt_state: of optax, of the parameters that are trained.
        ema: moving average of them and of the model state by name: averaged parameters are
            normalised by statistics averaged over the same steps. Empty without
            `optim.ema_decay`.
        bad_steps: steps in a row, up to the last one, that were skipped, int32: their loss,
            gradient or batch statistics were not finite, or their gradient was an outlier.
        guard: what is remembered of the steps before to find those, see `clipjax.train.guard`.
        self_teacher: what the image tower learns from, see `clipjax.train.self_distill`; empty
            without `model.self_distill`.
    """

    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    bad_steps: Any
    guard: Any
    self_teacher: Any


def optimizer_of(config: TrainConfig) -> optax.GradientTransformation:
    """Returns the optimizer of a run, with what the names of its parameters decide.

    Raises:
        UsageError: if a pattern of `optim.rates` or `optim.no_decay` matches no parameter.
    """
    factors = jax.eval_shape(lambda: init_lora(config.model, config.optim.lora, config.seed))
    shapes = param_shapes(config.model) | {name: leaf.shape for name, leaf in factors.items()}
    for name in model_state_names(config.model):
        del shapes[name]
    parameters = Parameters(model=config.model, shapes=shapes, axes=param_axes(config.model))
    return make_optimizer(config.optim, run_learning_rate(config), parameters)


def init_state(
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, jax.Array] = MappingProxyType({}),
) -> TrainState:
    """Returns the state before the first step; jit it with out_shardings to build it in place.

    Args:
        config: of the run.
        optimizer: of the run.
        weights: parameters and model state to begin with; what is missing is random.
    """
    params, model_state = init_params(config.model, config.seed), init_model_state(config.model)
    params = {name: weights.get(name, start) for name, start in params.items()}
    model_state = {name: weights.get(name, start) for name, start in model_state.items()}
    params |= init_lora(config.model, config.optim.lora, config.seed)
    moving = {
        name: params[name] for name, is_trained in trained_of(config, params).items() if is_trained
    }
    averaged = {**moving, **model_state} if config.optim.ema_decay else {}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(moving),
        ema={name: value.copy() for name, value in averaged.items()},
        bad_steps=jnp.zeros((), jnp.int32),
        guard=first_record(),
        self_teacher=first_average(config, params),
    )


def trained_of(config: TrainConfig, params: Mapping[str, Any]) -> dict[str, Trained]:
    """Returns for each parameter whether any stage trains it, see `clipjax.optim.trained`."""
    return trained_in_run(config, {name: leaf.shape for name, leaf in params.items()})


def abstract_state(
    config: TrainConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns the state with `jax.ShapeDtypeStruct`s that carry the shardings of the mesh."""
    shapes = jax.eval_shape(lambda: init_state(config, optimizer))
    shardings = tree_shardings(shapes, param_axes(config.model), mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )


def sharding_warnings(config: TrainConfig, state: TrainState, mesh: Mesh) -> list[str]:
    """Returns what a user should know of where a state lies, a sentence each.

    Raises:
        UsageError: if an axis of the mesh splits nothing.
    """
    shapes = {name: leaf.shape for name, leaf in state.params.items()}
    axes = {name: named for name, named in param_axes(config.model).items() if name in shapes}
    return warnings(state_leaves(state), axes, shapes, mesh)


def evaluated_params(config: TrainConfig, state: TrainState) -> dict[str, jax.Array]:
    """Returns what is evaluated: the parameters and statistics of the model.

    Where there is a moving average it takes the place of its parameters; low-rank updates are
    added.
    """
    found = {**state.params, **state.model_state, **state.ema}
    params = {name: found[name] for name in state.params}
    statistics = {name: found[name] for name in state.model_state}
    return {**merged(params, config.model, config.optim.lora), **statistics}


def as_dict(state: TrainState) -> dict[str, Any]:
    """Returns the fields of a state by name, as they are saved."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
