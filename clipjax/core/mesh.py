"""The device mesh and where a batch lives on it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from clipjax.config import MeshConfig, UsageError

AXES = ("replica", "data", "fsdp", "tensor")
BATCH_AXES = ("replica", "data", "fsdp")

_LEAST_FSDP, _MOST_FSDP = 8, 16


def make_mesh(
    config: MeshConfig, num_devices: int | None = None, devices: Sequence[Any] | None = None
) -> Mesh:
    """Returns the mesh over all devices of all processes.

    Args:
        config: sizes of the axes.
        num_devices: of the first devices only.
        devices: other ones than those that are there, such as those of a topology.

    Raises:
        UsageError: if the sizes do not multiply to the number of devices, or slices of TPUs would
            be split by an axis whose messages cannot cross between them.
    """
    devices = list(jax.devices() if devices is None else devices)[:num_devices]
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = mesh_sizes(config, len(devices), slices, devices[0].platform)
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        within, across = _over_slices(sizes, slices)
        grid = mesh_utils.create_hybrid_device_mesh(
            within, across, devices, allow_split_physical_axes=True
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(
    config: MeshConfig, num_devices: int, slices: int = 1, platform: str = "cpu"
) -> tuple[int, ...]:
    """Returns the sizes of `AXES`.

    Args:
        config: see `MeshConfig`.
        num_devices: over all slices.
        slices: of the devices.
        platform: of the devices: "tpu", "gpu", "cuda" or "cpu".

    Raises:
        UsageError: if the sizes do not multiply to the number of devices.

    >>> mesh_sizes(MeshConfig(), 256, platform="tpu"), mesh_sizes(MeshConfig(tensor=2), 8)
    ((1, 16, 16, 1), (1, 4, 1, 2))
    """
    given = {name: getattr(config, name) for name in AXES}
    if given["replica"] is None:
        given["replica"] = slices
    if given["fsdp"] is None:
        fixed = math.prod(size for size in given.values() if size is not None and size != -1)
        left = num_devices // fixed if num_devices % fixed == 0 else 1
        given["fsdp"] = left
        if -1 in given.values():
            fits = [n for n in range(_LEAST_FSDP, _MOST_FSDP + 1) if left % n == 0] or [1]
            given["fsdp"] = fits[-1] if platform == "tpu" else fits[0]
    fixed = math.prod(size for size in given.values() if size != -1)
    if -1 in given.values() and num_devices % fixed == 0:
        given = {n: num_devices // fixed if size == -1 else size for n, size in given.items()}
    if math.prod(given.values()) != num_devices:
        raise UsageError(_no_mesh(config, given, num_devices))
    return tuple(given.values())


def _no_mesh(config: MeshConfig, given: dict[str, int], num_devices: int) -> str:
    asked = {name: size for name, size in dataclasses.asdict(config).items() if size is not None}
    told = ", ".join(f"{name}={size}" for name, size in asked.items())
    ways = []
    for name in AXES:
        others = math.prod(s for axis, s in given.items() if axis != name and s != -1)
        if asked.get(name, -1) == -1 or num_devices % others:
            continue
        left = num_devices // others
        fits = [n for n in range(1, left + 1) if left % n == 0] if -1 in given.values() else [left]
        nearest = sorted(fits, key=lambda n, size=given[name]: abs(n - size))[:2]
        ways.append(f"{name}={' or '.join(map(str, sorted(nearest)))}")
    return (
        f"config.mesh: {told} does not fill {num_devices} devices. "
        f"{'It would with ' + ', or with '.join(ways) + '.' if ways else ''} "
        "An axis of -1 takes what is left."
    ).replace("  ", " ")


def _over_slices(sizes: tuple[int, ...], slices: int) -> tuple[list[int], list[int]]:
    """Returns the sizes within a slice and across slices: the first axis that fits crosses them."""
    for place in range(2):  # replica and data
        if sizes[place] % slices == 0:
            across = [1] * len(sizes)
            across[place] = slices
            return [size // n for size, n in zip(sizes, across, strict=True)], across
    told = ", ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    raise UsageError(
        f"config.mesh: {told} over {slices} slices: replica or data must be a multiple of "
        f"{slices}, as only they can cross the network between slices. Leave replica out, or set "
        f"replica={slices}."
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: the leading axis over all of `BATCH_AXES`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_devices(mesh: Mesh | AbstractMesh) -> int:
    """Returns the number of parts into which a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(field: str, batch_size: int, mesh: Mesh, micro_batches: int = 1) -> None:
    """Raises UsageError unless every device gets the same number of rows, of each micro-batch."""
    devices = batch_devices(mesh)
    parts = devices * micro_batches
    if batch_size % parts:
        lower = batch_size // parts * parts
        nearest = f"{lower} and {lower + parts}" if lower else f"{parts}"
        of_each = f" in {micro_batches} micro-batches" if micro_batches > 1 else ""
        raise UsageError(
            f"config.{field}={batch_size} cannot be split over {devices} devices{of_each} (mesh "
            f"axes {' x '.join(map(repr, BATCH_AXES))}, {jax.process_count()} processes). Nearest "
            f"sizes that can: {nearest}."
        )


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns the rows of a global batch that the devices of this process hold, ascending."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    return np.unique(np.concatenate([np.arange(batch_size)[i] for i in indices.values() if i]))


def put_rows(array: np.ndarray, rows: np.ndarray, batch_size: int, mesh: Mesh) -> jax.Array:
    """Makes the global array of which this process has `rows` (see `local_rows`).

    The result never aliases `array`: when this returns, `array` may be overwritten. On CPU JAX
    takes an aligned NumPy buffer over instead of copying it, hence the copy of our own there; on
    accelerators the transfer is asynchronous, hence the wait.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[0].indices(batch_size)
        first = int(np.searchsorted(rows, start))
        part = array[first : first + stop - start]
        return part.copy() if on_cpu else part

    out = jax.make_array_from_callback(
        (batch_size, *array.shape[1:]), batch_sharding(mesh), shard, dtype=array.dtype
    )
    return out if on_cpu else jax.block_until_ready(out)
