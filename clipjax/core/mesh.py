"""The device mesh and where a batch lives on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clipjax.config import MeshConfig, UsageError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(config: MeshConfig, num_devices: int | None = None) -> Mesh:
    """Returns the mesh with axes `data`, `fsdp` and `tensor` over all devices of all processes.

    Raises:
        UsageError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices()[:num_devices]
    sizes = [config.data, config.fsdp, config.tensor]
    if -1 in sizes:
        rest = -int(np.prod(sizes))
        sizes[sizes.index(-1)] = len(devices) // rest
    if int(np.prod(sizes)) != len(devices) or 0 in sizes:
        raise UsageError(
            f"config.mesh: data={config.data}, fsdp={config.fsdp}, tensor={config.tensor} does not "
            f"fill {len(devices)} devices. Set one axis to -1 and the others to divisors of it."
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: the leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_devices(mesh: Mesh) -> int:
    """Returns the number of parts into which a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


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
            f"axes 'data' x 'fsdp', {jax.process_count()} processes). Nearest sizes that can: "
            f"{nearest}."
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
