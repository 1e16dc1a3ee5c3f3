"""From the names of a parameter's axes to its place on the mesh.

Parameters carry the names of their axes in a metadata key of ours (`axes=`); these rules say which
axis of the mesh splits which name. Model code stays single-device code.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from clipjax.core.mesh import BATCH_AXES
from clipjax.core.stacks import is_stacked

RULES: Mapping[str, str] = {"embed": "fsdp", "vocab": "fsdp", "heads": "tensor", "mlp": "tensor"}

Axes = tuple[str | None, ...]


def param_spec(shape: tuple[int, ...], axes: Axes, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Returns how a parameter is split; an axis that does not divide stays whole.

    Args:
        shape: of the parameter; one leading axis more than `axes` for stacked layers.
        axes: name of each axis, or None for an axis that is never split.
        mesh: with the axes that `RULES` names.
    """
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
    used: set[str] = set()
    parts: list[str | None] = []
    for size, name in zip(shape, axes, strict=True):
        axis = RULES.get(name or "")
        fits = axis is not None and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
        parts.append(axis if fits and axis not in used else None)
        used.add(parts[-1] or "")
    return PartitionSpec(*parts)


def tree_shardings(tree: Any, axes_of: Mapping[str, Axes], mesh: Mesh) -> Any:
    """Returns the sharding of each leaf of a training state.

    A leaf whose last key is the name of a parameter (the parameter itself, its moments, its moving
    average) is split like the parameter if it has the parameter's axes; all else is replicated.
    Sums over an axis, such as the statistics of Adafactor, are some hundredths of a parameter.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = str(getattr(path[-1], "key", "")) if path else ""
        if name in axes_of and leaf.ndim == len(axes_of[name]) + is_stacked(name):
            return NamedSharding(mesh, param_spec(leaf.shape, axes_of[name], mesh))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, tree)


def constrain_batch(x: jax.Array) -> jax.Array:
    """Keeps activations split over the batch; the identity where no mesh is set.

    Without it XLA may replicate the batch: a step that needs 7 GiB a chip then needs 4.52 TB
    (ViT-B/16, 256 chips, read off the compiled program).
    """
    if _mesh_of_batch() is None:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def constrain_heads(x: jax.Array) -> jax.Array:
    """Keeps queries, keys or values split over the batch, and over the heads as their kernels are.

    cuDNN's attention refuses to be split where XLA has split its three inputs differently, as it
    does with queries that are the same for every image. The identity where no mesh is set.

    Args:
        x: [batch, tokens, heads, channels].
    """
    mesh = _mesh_of_batch()
    if mesh is None:
        return x
    spec = param_spec(x.shape[2:3], ("heads",), mesh)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, None, *spec, None))


def _mesh_of_batch() -> AbstractMesh | None:
    """Returns the mesh that is set, if it has axes for the batch that XLA may split as it likes."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names):
        return None
    if any(
        mesh.axis_types[mesh.axis_names.index(a)] != jax.sharding.AxisType.Auto for a in BATCH_AXES
    ):
        return None  # inside shard_map the batch is already local
    return mesh


def gather_table(table: jax.Array) -> jax.Array:
    """Makes an embedding table whole before a look-up, which is cheaper than moving activations."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH_AXES) <= set(mesh.axis_names):
        return table
    return jax.lax.with_sharding_constraint(table, PartitionSpec())
