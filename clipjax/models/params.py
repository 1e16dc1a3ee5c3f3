"""A model's parameters as one flat dict, keyed like the attributes of the module.

`{"image/blocks/stack/0/attn/qkv/kernel": array, ...}`: optax masks, Orbax, sharding rules and the
tables of other formats all work on names, and a flat dict is the cheapest pytree to hand to a
compiled step.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from clipjax.config import ComputeConfig, DualEncoderConfig, ImageConfig, TextTowerConfig
from clipjax.core.partition import Axes
from clipjax.models.dual_encoder import IMAGE_TOWERS, TEXT_TOWERS, DualEncoder

Params = dict[str, jax.Array]
TowerConfig = ImageConfig | TextTowerConfig


def abstract_model(config: DualEncoderConfig) -> DualEncoder:
    """Returns the model with shapes in place of numbers."""
    return nnx.eval_shape(lambda: DualEncoder(config, rngs=shape_rngs()))


class _SameKey(nnx.RngStream):
    """A stream that does not count.

    To count inside a trace takes longer with every operation before, which makes the shapes of an
    unrolled model quadratic in its layers. Where only shapes are looked at, one key does for all.
    """

    def __call__(self) -> jax.Array:
        return self.key[...]


def shape_rngs() -> nnx.Rngs:
    """Returns the Rngs of a model whose numbers are not looked at; inside `nnx.eval_shape` only."""
    rngs: Any = nnx.Rngs(0)  # whose streams are attributes that no stub names
    rngs.default = _SameKey(0, tag="default")
    return rngs


@functools.lru_cache(maxsize=256)
def abstract_tower(config: TowerConfig, embed_dim: int, compute: ComputeConfig) -> Any:
    """Returns one tower by itself, with shapes in place of numbers; not to be changed."""
    tower = {**IMAGE_TOWERS, **TEXT_TOWERS}[config.kind]
    return nnx.eval_shape(lambda: tower(config, embed_dim, compute=compute, rngs=shape_rngs()))


def init_params(config: DualEncoderConfig, seed: int) -> Params:
    """Returns the initial parameters, float32; jit it with out_shardings to build them in place."""
    return _values(DualEncoder(config, rngs=nnx.Rngs(seed)), nnx.Param)


def init_model_state(config: DualEncoderConfig) -> Params:
    """Returns what the model accumulates itself, the statistics of batch norm; empty for most."""
    if not model_state_names(config):
        return {}
    # Compiled, so that no parameter is drawn for it.
    return jax.jit(lambda: model_state_of(DualEncoder(config, rngs=nnx.Rngs(0))))()


def model_state_names(config: DualEncoderConfig) -> list[str]:
    """Returns the names of what `init_model_state` gives."""
    _, state = _structure(config)
    return [_name(path) for path, variable in state if isinstance(variable, nnx.BatchStat)]


def model_state_of(model: DualEncoder) -> Params:
    """Returns the statistics as a call in training has left them."""
    return _values(model, nnx.BatchStat)


def with_params(config: DualEncoderConfig, arrays: Mapping[str, jax.Array]) -> DualEncoder:
    """Returns the model with these numbers; call it inside a traced function.

    Args:
        config: of the model.
        arrays: parameters and model state by name, in one mapping.
    """
    graph, state = _structure(config)
    leaves = [variable.replace(arrays[_name(path)]) for path, variable in state]
    return nnx.merge(
        graph, nnx.from_flat_state(zip([path for path, _ in state], leaves, strict=True))
    )


def param_axes(config: DualEncoderConfig) -> dict[str, Axes]:
    """Returns the name of each axis of each parameter, for the sharding rules."""
    _, state = _structure(config)
    return {_name(path): tuple(variable.get_metadata()["axes"]) for path, variable in state}


def param_shapes(config: DualEncoderConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter and of the model state, by name."""
    _, state = _structure(config)
    return {_name(path): variable.get_value().shape for path, variable in state}


def num_params(config: DualEncoderConfig) -> int:
    """Returns the number of parameters, logit scale and bias included; statistics do not count."""
    compute = dataclasses.replace(config.compute, scan_layers=True)  # one block for all: quicker
    _, state = _structure(dataclasses.replace(config, compute=compute))
    return _count(state)


@functools.cache
def num_tower_params(config: TowerConfig, embed_dim: int) -> int:
    """Returns the number of parameters of one tower; models that share it share the count."""
    tower = abstract_tower(config, embed_dim, ComputeConfig(scan_layers=True))
    return _count(nnx.to_flat_state(nnx.state(tower)))


def _count(state: Iterable[tuple[Any, Any]]) -> int:
    return sum(
        math.prod(variable.get_value().shape)
        for _, variable in state
        if isinstance(variable, nnx.Param)
    )


def _values(model: DualEncoder, kind: type[nnx.Variable]) -> Params:
    return {
        _name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(model, kind))
    }


def _name(path: tuple[object, ...]) -> str:
    return "/".join(map(str, path))


@functools.cache
def _structure(config: DualEncoderConfig):
    graph, state = nnx.split(abstract_model(config))
    return graph, list(nnx.to_flat_state(state))
