"""All that training changes, hence all that a checkpoint of the model holds."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from clipjax.config import TrainConfig
from clipjax.core.partition import tree_shardings
from clipjax.models import init_model_state, init_params, param_axes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """The training state, a plain pytree.

    Fields have no shapes in their annotations: eval_shape and restore fill them with other things.

    Attributes:
        step: updates made or skipped, int32.
        params: float32 arrays by name.
        model_state: what the model itself accumulates (batch-norm statistics); empty for most.
        opt_state: of optax.
        ema: moving average of the parameters by name; empty without `optim.ema_decay`.
        bad_steps: steps in a row, up to the last one, whose loss or gradient was not finite and
            whose update was therefore skipped, int32.
    """

    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    bad_steps: Any


def init_state(
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, jax.Array] | None = None,
) -> TrainState:
    """Returns the state before the first step; jit it with out_shardings to build it in place.

    Args:
        config: of the run.
        optimizer: of the run.
        weights: parameters and model state to begin with; None for random ones.
    """
    params, model_state = init_params(config.model, config.seed), init_model_state(config.model)
    if weights is not None:
        params = {name: weights[name] for name in params}
        model_state = {name: weights[name] for name in model_state}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        ema={name: p.copy() for name, p in params.items()} if config.optim.ema_decay else {},
        bad_steps=jnp.zeros((), jnp.int32),
    )


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


def evaluated_params(state: TrainState) -> dict[str, jax.Array]:
    """Returns what is evaluated: the moving average if there is one, and the model state."""
    return {**(state.ema or state.params), **state.model_state}


def as_dict(state: TrainState) -> dict[str, Any]:
    """Returns the fields of a state by name, as they are saved."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
