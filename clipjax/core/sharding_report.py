"""What each device holds of a training state, leaf by leaf, and what is wrong with that."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from clipjax.config import UsageError
from clipjax.core.partition import RULES, Axes

_LARGE_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """One array of a state.

    Attributes:
        name: keys joined by "/", e.g. "opt_state/1/mu/image/project/kernel".
        shape: of the whole array.
        dtype: of its numbers.
        spec: how it is split.
        bytes: of the whole array.
        device_bytes: of what one device holds.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    spec: str
    bytes: int
    device_bytes: int


def state_leaves(state: Any) -> list[Leaf]:
    """Returns the leaves of a tree whose leaves have shapes, dtypes and shardings."""
    return [
        Leaf(
            name=jax.tree_util.keystr(path, simple=True, separator="/"),
            shape=tuple(leaf.shape),
            dtype=str(leaf.dtype),
            spec=str(leaf.sharding.spec),
            bytes=leaf.size * leaf.dtype.itemsize,
            device_bytes=shard_bytes(leaf),
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def shard_bytes(tree: Any) -> int:
    """Returns what one device holds of arrays that carry shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def warnings(
    leaves: list[Leaf],
    axes_of: Mapping[str, Axes],
    shapes: Mapping[str, tuple[int, ...]],
    mesh: Mesh,
) -> list[str]:
    """Returns what a user should know of the shardings of a run, a sentence each.

    Args:
        leaves: of the state.
        axes_of: the names of the axes of each parameter.
        shapes: of the parameters.
        mesh: that they lie on.

    Raises:
        UsageError: if an axis of the mesh splits no parameter at all.
    """
    found = []
    for axis in ("fsdp", "tensor"):
        size = mesh.shape[axis]
        if size == 1:
            continue
        wholes = _not_split(axis, size, axes_of, shapes)
        for (name, length), example in wholes.items():
            found.append(
                f"config.mesh.{axis}={size} does not divide the {length} of axis {name!r} of "
                f"{example}: it is not split there."
            )
    split = mesh.shape["fsdp"] * mesh.shape["tensor"]
    large = [leaf for leaf in leaves if leaf.device_bytes == leaf.bytes >= _LARGE_BYTES]
    if split > 1 and large:
        largest = max(large, key=lambda leaf: leaf.bytes)
        found.append(
            f"{len(large)} leaves of at least {_LARGE_BYTES >> 20} MiB are whole on every device, "
            f"{sum(leaf.bytes for leaf in large) / 2**20:,.0f} MiB together; the largest is "
            f"{largest.name} {largest.shape}."
        )
    return found


def _not_split(
    axis: str, size: int, axes_of: Mapping[str, Axes], shapes: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, int], str]:
    """Returns an example for each axis name and length that an axis of the mesh does not divide.

    Where it divides another axis of the same parameter, that one is split.

    Raises:
        UsageError: if it divides none.
    """
    lengths: dict[tuple[str, int], str] = {}
    wholes: dict[tuple[str, int], str] = {}
    for parameter, axes in axes_of.items():
        of_axes = shapes[parameter][len(shapes[parameter]) - len(axes) :]
        own = [
            (name, length)
            for length, name in zip(of_axes, axes, strict=True)
            if name is not None and RULES.get(name) == axis
        ]
        lengths |= {key: parameter for key in own if key not in lengths}
        if own and all(length % size for _, length in own):
            wholes.setdefault(own[0], parameter)
    if lengths and all(length % size for _, length in lengths):
        of_all = math.gcd(*(length for _, length in lengths))
        fits = sorted(n for n in range(1, of_all + 1) if of_all % n == 0)
        nearest = sorted(fits, key=lambda n: abs(n - size))[:3]
        (name, length), example = next(iter(lengths.items()))
        raise UsageError(
            f"config.mesh.{axis}={size} divides no axis of the parameters that it could split, "
            f"such as the {length} of axis {name!r} of {example}. Sizes that divide all of them: "
            f"{', '.join(map(str, sorted(nearest)))}."
        )
    return wholes
