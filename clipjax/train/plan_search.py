"""The largest batch that fits a machine, and what makes a step fit that does not: by compiling."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from jax.sharding import Mesh

from clipjax.config import TrainConfig, UsageError
from clipjax.config.fields import Remat
from clipjax.core.mesh import batch_devices
from clipjax.core.topologies import Topology, devices_of
from clipjax.train.plan import plan_mesh, planned_config
from clipjax.train.plan_memory import Compilation, compile_for

Say = Callable[[str], None]

_MOST_MICRO_BATCHES = 16
# A larger batch is looked for until it is known to within this share.
_PRECISION = 1 / 16
# Of the memory: beyond it the state itself is what must be split.
_LARGE_STATE = 1 / 2
# From most to least saved.
_REMATS: tuple[Remat, ...] = ("none", "dots", "names", "qkv_attn", "attn", "full")


def largest_batch(config: TrainConfig, topology: Topology, say: Say) -> dict[str, Any]:
    """Returns the largest global batch that fits, and every batch that was tried.

    It doubles (or halves) until it has one that fits and one that does not, then narrows the gap to
    a sixteenth, where memory grows in proportion. TPU programs are compiled with the least
    optimisation.

    Args:
        config: of the run; its batch is where the search begins.
        topology: a machine whose memory is known.
        say: is told of each batch.

    Raises:
        UsageError: if the machine is a CPU.
    """
    if topology.chip is None:
        raise UsageError(
            f"--batch_search: how much memory {topology.name} has is not known. Give a TPU or GPU."
        )
    config, _ = planned_config(config, topology)
    devices = devices_of(topology)
    mesh, _ = plan_mesh(config, devices)
    unit = batch_devices(mesh) * config.micro_batches
    tried: dict[int, Compilation] = {}

    def fits(size: int) -> bool:
        found = compile_for(_with_batch(config, size), topology, mesh, quick=True)
        tried[size] = found
        say(
            f"batch {size:,}: {found.needed_bytes / 2**30:.2f} GiB a device, "
            f"{'fits' if found.fits else 'does not fit'}"
        )
        return found.fits

    low, high = _bracket(config.data.global_batch_size, unit, fits)
    while low and high - low > max(unit, _multiple(low * _PRECISION, unit)):
        gap = max(unit, _multiple(low * _PRECISION, unit))
        a, b = tried[low].needed_bytes, tried[high].needed_bytes
        share = (topology.chip.usable_bytes - a) / max(b - a, 1)
        size = _multiple(low + share * (high - low), unit)
        size = min(max(size, low + gap), high - unit)
        low, high = (size, high) if fits(size) else (low, size)
    return {
        "global_batch_size": low,
        "needed": tried[low].needed_bytes if low else None,
        "usable": topology.chip.usable_bytes,
        "tried": [
            {"global_batch_size": size, "needed": one.needed_bytes, "fits": one.fits}
            for size, one in tried.items()
        ],
    }


def _bracket(start: int, unit: int, fits: Callable[[int], bool]) -> tuple[int, int]:
    """Returns a batch that fits, 0 if none does, and a larger one that does not."""
    if fits(start):
        low, high = start, 2 * start
        while fits(high):
            low, high = high, 2 * high
        return low, high
    high = start
    while high > unit:
        size = max(_multiple(high / 2, unit), unit)
        if fits(size):
            return size, high
        high = size
    return 0, high


def _multiple(size: float, unit: int) -> int:
    return math.floor(size / unit) * unit


def _with_batch(config: TrainConfig, size: int) -> TrainConfig:
    data = dataclasses.replace(config.data, global_batch_size=size)
    return dataclasses.replace(config, data=data)


def remedies(
    config: TrainConfig, topology: Topology, say: Say, state_bytes: int
) -> list[dict[str, Any]]:
    """Returns changes of a config that does not fit, compiled one by one up to the first that does.

    Each keeps what was changed before. A state that takes half of the memory is split first.

    Args:
        config: of the run.
        topology: a machine whose memory is known.
        say: is told of each change.
        state_bytes: that a device holds of the state.
    """
    assert topology.chip is not None
    config, _ = planned_config(config, topology)
    devices = devices_of(topology)
    large = state_bytes > _LARGE_STATE * topology.chip.usable_bytes
    mesh, _ = plan_mesh(config, devices)
    steps = [*_remats(config), *_micro_batches(config, mesh)]
    shards = list(_shards(mesh))
    tried = []
    overrides: dict[str, Any] = {}
    for field, value in [*shards, *steps] if large else [*steps, *shards]:
        overrides[field] = value
        changed = _overridden(config, overrides)
        try:
            mesh, _ = plan_mesh(changed, devices)
        except UsageError:  # this batch or model cannot be cut so
            del overrides[field]
            continue
        found = compile_for(changed, topology, mesh, quick=True)
        flags = [f"--config.{name}={value}" for name, value in overrides.items()]
        say(
            f"{' '.join(flags)}: {found.needed_bytes / 2**30:.2f} GiB a device, "
            f"{'fits' if found.fits else 'does not fit'}"
        )
        tried.append({"overrides": flags, "needed": found.needed_bytes, "fits": found.fits})
        if found.fits:
            break
    return tried


def _remats(config: TrainConfig) -> Iterator[tuple[str, Any]]:
    for remat in _REMATS[_REMATS.index(config.model.compute.remat) + 1 :]:
        if remat != "dots":  # saves what `names` saves, and more
            yield "model.compute.remat", remat


def _micro_batches(config: TrainConfig, mesh: Mesh) -> Iterator[tuple[str, Any]]:
    rows = config.data.global_batch_size // batch_devices(mesh)
    parts = 2 * config.micro_batches
    while parts <= _MOST_MICRO_BATCHES:
        if rows % parts == 0:
            yield "micro_batches", parts
        parts *= 2


def _shards(mesh: Mesh) -> Iterator[tuple[str, Any]]:
    size = 2 * mesh.shape["fsdp"]
    while size <= mesh.size // mesh.shape["tensor"]:
        yield "mesh.fsdp", size
        size *= 2


def _overridden(config: Any, overrides: dict[str, Any]) -> Any:
    for path, value in overrides.items():
        config = _replaced(config, path.split("."), value)
    return config


def _replaced(config: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _replaced(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: value})
