"""What the names of parameters tell: layers of stacks, patterns, the block a parameter is in."""

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp

from clipjax.config import DualEncoderConfig, UsageError, did_you_mean
from clipjax.core.partition import Axes
from clipjax.core.stacks import is_stacked, layer_names

Shape = tuple[int, ...]
Value = TypeVar("Value", bool, float)

LORA = "lora/"
"""What the names of low-rank factors begin with."""

Place = tuple[int, int]
"""Stage and block."""

TOWERS = ("image", "text")

_BEHIND = ("norm", "pool", "head", "hidden", "project")
_BEHIND_BERT = ("pooler", "hidden", "project")  # its `norm` is that of the embeddings

_STAGE = re.compile(r"^stages/(\d+)/(?:blocks/stack/)?(\d+)?")
_BLOCK = re.compile(r"^blocks/(?:stack/)?(\d+)/")
_BETWEEN_STAGES = re.compile(r"^(?:norms|downs)/(\d+)/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters:
    """What decides how each parameter is treated.

    Attributes:
        model: whose parameters these are.
        shapes: of all of them by name, those that are frozen and low-rank factors included.
        axes: names of their axes; low-rank factors are left out.
    """

    model: DualEncoderConfig
    shapes: Mapping[str, Shape]
    axes: Mapping[str, Axes]


def layers_of(shapes: Mapping[str, Shape]) -> dict[str, list[str]]:
    """Returns the names of the layers of each parameter; its own if it is no stack."""
    return {
        name: layer_names(name, shape[0]) if is_stacked(name) else [name]
        for name, shape in shapes.items()
    }


def by_parameter(
    layers: Mapping[str, list[str]], values: Mapping[str, Value]
) -> dict[str, Value | tuple[Value, ...]]:
    """Returns the value of each parameter; of each layer where those of a stack differ.

    Args:
        layers: as `layers_of` gives them.
        values: of each layer.
    """
    found: dict[str, Value | tuple[Value, ...]] = {}
    for name, parts in layers.items():
        each = tuple(values[part] for part in parts)
        found[name] = each if len(set(each)) > 1 else each[0]
    return found


def along_layers(values: tuple[bool, ...] | tuple[float, ...], shape: Shape) -> jax.Array:
    """Returns one value for each layer of a stacked parameter, to be broadcast."""
    return jnp.array(values).reshape(-1, *(1,) * (len(shape) - 1))


def matching(field: str, pattern: str, names: Iterable[str]) -> list[str]:
    """Returns the names that a pattern, less a leading `!`, matches.

    Raises:
        UsageError: if there are none; it names the field of `config.optim`.
    """
    names, bare = list(names), pattern.removeprefix("!")
    found = [name for name in names if fnmatch.fnmatchcase(name, bare)]
    if not found:
        raise UsageError(
            f"config.optim.{field}: {pattern!r} matches no parameter.{did_you_mean(bare, names)} "
            "`clipjax inspect` lists the names; '*' stands for anything."
        )
    return found


def places(tower: str, names: Iterable[str], model: DualEncoderConfig) -> dict[str, Place | str]:
    """Returns the block that each parameter of a tower belongs to, or "front" or "behind".

    Args:
        tower: "image" or "text".
        names: of any parameters, layers unrolled; low-rank factors stand where their matrix does.
        model: whose names these are.
    """
    bert = tower == "text" and model.text.kind == "bert"
    behind = _BEHIND_BERT if bert else _BEHIND
    inners = {name: name.removeprefix(LORA).removeprefix(f"{tower}/") for name in names}
    inners = {n: inner for n, inner in inners.items() if inner != n.removeprefix(LORA)}
    first = {
        inner.split("/")[1]
        for inner in inners.values()
        if inner.startswith("stages/") and "/first/" in inner
    }
    found: dict[str, Place | str] = {}
    for name, inner in inners.items():
        if inner.split("/")[0] in behind:
            found[name] = "behind"
        elif match := _STAGE.match(inner):
            # What stands before the blocks of a stage, and a ResNet's first block, is block 0.
            block = int(match[2]) + (match[1] in first) if match[2] else 0
            found[name] = int(match[1]), block
        elif match := _BETWEEN_STAGES.match(inner):
            found[name] = int(match[1]) + 1, 0
        elif match := _BLOCK.match(inner):
            found[name] = 0, int(match[1])
        else:
            found[name] = "front"
    return found


def blocks_of(found: Mapping[str, Place | str]) -> list[Place]:
    """Returns the blocks of a tower in order, given the places of its parameters."""
    return sorted({place for place in found.values() if isinstance(place, tuple)})
