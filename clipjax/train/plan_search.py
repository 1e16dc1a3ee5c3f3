"""The largest batch that fits a machine, and what makes a step fit that does not: by compiling."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from clipjax.config import Stage, TrainConfig, UsageError
from clipjax.config.fields import Remat
from clipjax.core.mesh import batch_devices
from clipjax.core.topologies import Topology, devices_of
from clipjax.train.plan import planned_config
from clipjax.train.plan_memory import Compilation, compile_for
from clipjax.train.plan_outline import Outline, outline

Say = Callable[[str], None]

_MOST_MICRO_BATCHES = 16
# A larger batch is looked for until it is known to within this share.
_PRECISION = 1 / 16
# Of the memory: beyond it the state itself is what must be split.
_LARGE_STATE = 1 / 2
# From most to least saved.
_REMATS: tuple[Remat, ...] = ("none", "dots", "names", "qkv_attn", "attn", "full")


def largest_batch(
    config: TrainConfig, topology: Topology, say: Say, stage: str = ""
) -> dict[str, Any]:
    """Returns the largest global batch that fits, and every batch that was tried.

    It doubles (or halves) until it has one that fits and one that does not, then narrows the gap to
    a sixteenth, where memory grows in proportion. TPU programs are compiled with the least
    optimisation.

    Args:
        config: of the run; its batch is where the search begins.
        topology: a machine whose memory is known.
        say: is told of each batch.
        stage: whose batch it is.

    Raises:
        UsageError: if the machine is a CPU.
    """
    if topology.chip is None:
        raise UsageError(
            f"--batch_search: how much memory {topology.name} has is not known. Give a TPU or GPU."
        )
    config, _ = planned_config(config, topology)
    devices = devices_of(topology)
    unit = batch_devices(outline(config, devices).mesh) * config.micro_batches
    tried: dict[int, Compilation] = {}

    def fits(size: int) -> bool:
        run = outline(_with_batch(config, stage, size), devices)
        found = compile_for(run, _named(run.config, stage), topology, quick=True)
        tried[size] = found
        say(
            f"batch {size:,}: {found.needed_bytes / 2**30:.2f} GiB a device, "
            f"{'fits' if found.fits else 'does not fit'}"
        )
        return found.fits

    start = _named(config, stage).config.data.global_batch_size
    low, high = _bracket(start, unit, fits)
    while low and high - low > max(unit, _multiple(low * _PRECISION, unit)):
        gap = max(unit, _multiple(low * _PRECISION, unit))
        a, b = tried[low].needed_bytes, tried[high].needed_bytes
        share = (topology.chip.usable_bytes - a) / max(b - a, 1)
        size = _multiple(low + share * (high - low), unit)
        size = min(max(size, low + gap), high - unit)
        low, high = (size, high) if fits(size) else (low, size)
    return {
        "stage": stage,
        "global_batch_size": low,
        "needed": tried[low].needed_bytes if low else None,
        "usable": topology.chip.usable_bytes,
        "tried": [
            {"global_batch_size": size, "needed": one.needed_bytes, "fits": one.fits}
            for size, one in tried.items()
        ],
    }


def _named(config: TrainConfig, name: str) -> Stage:
    return next(stage for stage in config.parts if stage.name == name)


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


def _with_batch(config: TrainConfig, stage: str, size: int) -> TrainConfig:
    if not stage:
        data = dataclasses.replace(config.data, global_batch_size=size)
        return dataclasses.replace(config, data=data)
    changed = dataclasses.replace(config.stages[stage], global_batch_size=size)
    return dataclasses.replace(config, stages={**config.stages, stage: changed})


def remedies(
    config: TrainConfig, topology: Topology, say: Say, state_bytes: int, stages: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns changes of a config that does not fit, compiled one by one up to the first that does.

    Each keeps what was changed before. A state that takes half of the memory is split first.

    Args:
        config: of the run.
        topology: a machine whose memory is known.
        say: is told of each change.
        state_bytes: that a device holds of the state.
        stages: that do not fit, the tightest first.
    """
    assert topology.chip is not None
    config, _ = planned_config(config, topology)
    devices = devices_of(topology)
    large = state_bytes > _LARGE_STATE * topology.chip.usable_bytes
    mesh = outline(config, devices).mesh
    steps = [*_remats(config), *_micro_batches(config, mesh, stages)]
    shards = list(_shards(mesh))
    tried = []
    overrides: dict[str, Any] = {}
    for field, value in [*shards, *steps] if large else [*steps, *shards]:
        before = overrides.get(field)
        overrides[field] = value
        try:
            run = outline(_overridden(config, overrides), devices)
        except (UsageError, ValueError):  # this batch or model cannot be cut so
            overrides = {k: v for k, v in overrides.items() if k != field}
            overrides |= {} if before is None else {field: before}
            continue
        needed, fits = _worst(run, topology, stages)
        flags = [f"--config.{name}={value}" for name, value in overrides.items()]
        say(
            f"{' '.join(flags)}: {needed / 2**30:.2f} GiB a device, "
            f"{'fits' if fits else 'does not fit'}"
        )
        tried.append({"overrides": flags, "needed": needed, "fits": fits})
        if fits:
            break
    return tried


def _worst(run: Outline, topology: Topology, stages: Sequence[str]) -> tuple[int, bool]:
    """Returns what the stages need at most, and whether they fit; up to the first that does not."""
    most = 0
    for name in stages:
        found = compile_for(run, _named(run.config, name), topology, quick=True)
        most = max(most, found.needed_bytes)
        if not found.fits:
            return most, False
    return most, True


def _remats(config: TrainConfig) -> Iterator[tuple[str, Any]]:
    for remat in _REMATS[_REMATS.index(config.model.compute.remat) + 1 :]:
        if remat != "dots":  # saves what `names` saves, and more
            yield "model.compute.remat", remat


def _micro_batches(
    config: TrainConfig, mesh: Mesh, stages: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    batches = [_named(config, stage).config.data.global_batch_size for stage in stages]
    parts = 2 * config.micro_batches
    while parts <= _MOST_MICRO_BATCHES:
        if all(batch // batch_devices(mesh) % parts == 0 for batch in batches):
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
