"""How long a step takes at best: arithmetic, memory and network against what the chips can do."""

from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from clipjax.config import DualEncoderConfig, Stage
from clipjax.core.collectives import Collective
from clipjax.core.topologies import Topology

ASSUMPTIONS = (
    "Arithmetic runs at the bfloat16 peak of the data sheet; good runs reach 40 to 60 % of it.",
    "FLOPs are counted from the trace and split evenly over all devices; XLA's cost analysis "
    "counts a scanned layer once and is not used.",
    "The traffic of the device's memory is the least: parameters, moments, gradients and saved "
    "activations, each written once and read once.",
    "Each collective sends the least bytes at the full bandwidth of its links, without latency. "
    "On a TPU it uses one axis of the torus. Where a group spans hosts or slices, its members in "
    "one of them share their network cards.",
    "The first step time lets arithmetic, memory and network overlap entirely, the second not at "
    "all. Input is never waited for; compilation, evaluation and checkpoints are left out.",
    "For GPUs matrix products are compiled without Triton, which wants to try its tiles on a card.",
)


def rows_of(
    found: Sequence[Collective],
    models: Sequence[DualEncoderConfig],
    topology: Topology,
    domains: Sequence[int],
) -> list[dict[str, Any]]:
    """Returns the collectives of a step, those of a kind, axis and place together.

    Args:
        found: in the program.
        models: of the program, whose layers are told apart from other loops.
        topology: of the devices.
        domains: of `domains_of`.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in found:
        key = (one.kind, one.axes, one.loops, _place(one, models), _crosses(one, domains))
        row = rows.setdefault(
            key,
            {
                "kind": one.kind,
                "axes": list(one.axes),
                "place": key[3],
                "loops": list(one.loops),
                "over_network": key[4],
                "operations": 0,
                "times": 0,
                "result_bytes": 0,
                "sent_bytes": 0,
                "seconds": None if topology.chip is None else 0.0,
                "exact": True,
            },
        )
        row["operations"] += 1
        row["times"] += one.times
        row["result_bytes"] += one.times * one.result_bytes
        row["sent_bytes"] += round(one.times * one.sent_bytes)
        row["exact"] &= one.exact
        if topology.chip is not None:
            row["seconds"] += one.times * one.sent_bytes / _bandwidth(one, topology, domains)
    return sorted(rows.values(), key=lambda row: -row["sent_bytes"])


def domains_of(topology: Topology, mesh: Mesh) -> list[int]:
    """Returns for each place of the mesh which host or slice its device belongs to."""
    name = {"gpu": "process_index", "tpu": "slice_index"}.get(topology.platform)
    return [getattr(device, name, 0) if name else 0 for device in mesh.devices.flat]


def _crosses(one: Collective, domains: Sequence[int]) -> bool:
    groups = [one.members]
    if one.kind == "collective-permute":
        groups = list(zip(one.members[::2], one.members[1::2], strict=True))
    return any(len({domains[member] for member in group}) > 1 for group in groups)


def _bandwidth(one: Collective, topology: Topology, domains: Sequence[int]) -> float:
    chip, links = topology.chip, topology.link_bandwidth
    assert chip is not None
    assert links is not None
    if not _crosses(one, domains):
        return links
    if one.kind == "collective-permute":
        return min(links, chip.network_bandwidth)
    beside = sum(domains[member] == domains[one.members[0]] for member in one.members)
    return min(links, beside * chip.network_bandwidth)


def _place(one: Collective, models: Sequence[DualEncoderConfig]) -> str:
    if not one.loops:
        return "outside loops"
    if "shard_map" in one.loop_name:
        return "loss"
    scanned = [model for model in models if model.compute.scan_layers]
    towers = [tower for model in scanned for tower in (model.image, model.text, model.decoder)]
    depths = {getattr(tower, "depth", None) for tower in towers}
    return "layers" if one.loops[-1] in depths else "another loop"


def roofline(
    stage: Stage,
    topology: Topology,
    *,
    flops: int,
    memory_bytes: int,
    collectives: Sequence[dict[str, Any]],
) -> dict[str, Any] | None:
    """Returns bounds of the time of a step and of all steps of a stage; None for a CPU.

    Args:
        stage: of the run.
        topology: the machine.
        flops: of one device in a step.
        memory_bytes: what a step moves through the memory of a device at least.
        collectives: of `rows_of`.
    """
    chip = topology.chip
    if chip is None:
        return None
    parts = {
        "compute": flops / chip.bf16_flops,
        "memory": memory_bytes / chip.memory_bandwidth,
        "network": sum(row["seconds"] for row in collectives),
    }
    seconds = [max(parts.values()), sum(parts.values())]
    steps = stage.stop_step - stage.first_step
    return {
        **{f"{name}_seconds": each for name, each in parts.items()},
        "bound": max(parts, key=lambda name: parts[name]),
        "step_seconds": seconds,
        **_of_run(
            steps * stage.config.data.global_batch_size,
            [each * steps / 3600 for each in seconds],
            topology.num_devices,
        ),
    }


def total(rooflines: Sequence[dict[str, Any] | None], topology: Topology) -> dict[str, Any] | None:
    """Returns bounds of the time of a run; None where that of a stage is not known."""
    known = [one for one in rooflines if one is not None]
    if len(known) < len(rooflines):
        return None
    hours = [sum(one["hours"][bound] for one in known) for bound in range(2)]
    return _of_run(sum(one["samples"] for one in known), hours, topology.num_devices)


def _of_run(samples: int, hours: Sequence[float], devices: int) -> dict[str, Any]:
    return {
        "samples": samples,
        "samples_per_second": [samples / 3600 / each for each in hours],
        "hours": list(hours),
        "accelerator_hours": [each * devices for each in hours],
    }
