"""Names of layers: one parameter for a whole stack, or a name for each layer of it.

`compute.scan_layers` keeps the layers of a stack in one parameter, ".../stack/mlp/fc1/kernel";
files, patterns and unrolled models name each, ".../stack/3/mlp/fc1/kernel".
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np

_LAYER = re.compile(r"^(.*/stack)/(\d+)/(.*)$")
_STACK = re.compile(r"^(.*/stack)/(?!\d+/)(.*)$")

Named = tuple[str, np.ndarray]


def layer_names(name: str, depth: int) -> list[str]:
    """Returns the names of the layers of a stacked parameter.

    >>> layer_names("text/blocks/stack/norm/scale", 2)
    ['text/blocks/stack/0/norm/scale', 'text/blocks/stack/1/norm/scale']
    """
    match = _STACK.match(name)
    assert match is not None, name
    return [f"{match[1]}/{layer}/{match[2]}" for layer in range(depth)]


def is_stacked(name: str) -> bool:
    """Returns whether a parameter holds all layers of a stack.

    >>> is_stacked("image/blocks/stack/ln_1/bias"), is_stacked("image/blocks/stack/0/ln_1/bias")
    (True, False)
    """
    return _STACK.match(name) is not None


def stack_of(name: str) -> tuple[str, int] | None:
    """Returns the stacked parameter that a layer is part of and its place; None for no layer.

    >>> stack_of("image/blocks/stack/3/ln_1/bias"), stack_of("image/norm/bias")
    (('image/blocks/stack/ln_1/bias', 3), None)
    """
    match = _LAYER.match(name)
    return None if match is None else (f"{match[1]}/{match[3]}", int(match[2]))


def stacked(arrays: Iterable[Named]) -> Iterator[Named]:
    """Yields the same, the layers of a stack in one array; these last."""
    layers: dict[str, dict[int, np.ndarray]] = {}
    for name, array in arrays:
        place = stack_of(name)
        if place is None:
            yield name, array
        else:
            layers.setdefault(place[0], {})[place[1]] = array
    for name, parts in layers.items():
        yield name, np.stack([parts[layer] for layer in range(len(parts))])


def unstacked(arrays: Iterable[Named]) -> Iterator[Named]:
    """Yields the same, the layers of a stack one by one."""
    for name, array in arrays:
        if is_stacked(name):
            yield from zip(layer_names(name, len(array)), array, strict=True)
        else:
            yield name, array
