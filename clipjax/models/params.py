"""A model's parameters as one flat dict, keyed like the attributes of the module.

`{"image/blocks/stack/0/attn/qkv/kernel": array, ...}`: optax masks, Orbax, sharding rules and the
tables of other formats all work on names, and a flat dict is the cheapest pytree to hand to a
compiled step.
"""

import functools
import math
from collections.abc import Mapping

import jax
from flax import nnx

from clipjax.config.model import DualEncoderConfig
from clipjax.core.partition import Axes
from clipjax.models.dual_encoder import DualEncoder

Params = dict[str, jax.Array]


def abstract_model(config: DualEncoderConfig) -> DualEncoder:
    """Returns the model with shapes in place of numbers."""
    # nnx.eval_shape needs its Rngs created inside.
    return nnx.eval_shape(lambda: DualEncoder(config, rngs=nnx.Rngs(0)))


def init_params(config: DualEncoderConfig, seed: int) -> Params:
    """Returns the initial parameters, float32; jit it with out_shardings to build them in place."""
    state = nnx.state(DualEncoder(config, rngs=nnx.Rngs(seed)), nnx.Param)
    return {_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def with_params(config: DualEncoderConfig, params: Mapping[str, jax.Array]) -> DualEncoder:
    """Returns the model with these parameters; call it inside a traced function."""
    graph, state = _structure(config)
    leaves = [variable.replace(params[_name(path)]) for path, variable in state]
    return nnx.merge(
        graph, nnx.from_flat_state(zip([path for path, _ in state], leaves, strict=True))
    )


def param_axes(config: DualEncoderConfig) -> dict[str, Axes]:
    """Returns the name of each axis of each parameter, for the sharding rules."""
    _, state = _structure(config)
    return {_name(path): tuple(variable.get_metadata()["axes"]) for path, variable in state}


def num_params(config: DualEncoderConfig) -> int:
    """Returns the number of parameters, logit scale and bias included."""
    _, state = _structure(config)
    return sum(math.prod(variable.get_value().shape) for _, variable in state)


def _name(path: tuple[object, ...]) -> str:
    return "/".join(map(str, path))


@functools.cache
def _structure(config: DualEncoderConfig):
    graph, state = nnx.split(abstract_model(config), nnx.Param)
    return graph, list(nnx.to_flat_state(state))
