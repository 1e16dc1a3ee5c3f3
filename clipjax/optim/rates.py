"""Factors of the learning rate by name, and layer-wise decay of it."""

from collections.abc import Mapping
from typing import Any

import optax

from clipjax.config import OptimConfig, split_rate
from clipjax.optim.names import (
    TOWERS,
    Parameters,
    along_layers,
    blocks_of,
    by_parameter,
    layers_of,
    matching,
    places,
)

Factors = Mapping[str, float | tuple[float, ...]]
"""Of each parameter; of each layer where those of a stack differ."""


def rate_factors(config: OptimConfig, parameters: Parameters) -> dict[str, Any]:
    """Returns what multiplies the learning rate of each parameter: `Factors`.

    Raises:
        UsageError: if a pattern of `rates` matches no parameter.

    Source: Bao et al. 2021, "BEiT", https://arxiv.org/abs/2106.08254 (its fine-tuning); Clark et
        al. 2020, "ELECTRA", appendix B, https://arxiv.org/abs/2003.10555.
    """
    layers = layers_of(parameters.shapes)
    names = [name for parts in layers.values() for name in parts]
    factors = dict.fromkeys(names, 1.0)
    for rate in config.rates:
        pattern, factor = split_rate(rate)
        factors |= dict.fromkeys(matching("rates", pattern, names), factor)
    for tower in TOWERS:
        decay = getattr(config, f"layer_decay_{tower}")
        found = places(tower, names, parameters.model)
        blocks = blocks_of(found)
        number = {"front": 0, "behind": len(blocks) + 1}
        number |= {block: i for i, block in enumerate(blocks, 1)}
        for name, place in found.items():
            factors[name] *= decay ** (len(blocks) + 1 - number[place])
    return by_parameter(layers, factors)


def scale_by_factors(
    transformation: optax.GradientTransformation, factors: Factors
) -> optax.GradientTransformation:
    """Returns the transformation with its updates multiplied; its state stays what it was."""

    def multiplied(name: str, update: Any) -> Any:
        factor = factors[name]
        return update * (
            along_layers(factor, update.shape) if isinstance(factor, tuple) else factor
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = transformation.update(updates, state, params)
        return {name: multiplied(name, update) for name, update in updates.items()}, state

    return optax.GradientTransformation(transformation.init, update)
