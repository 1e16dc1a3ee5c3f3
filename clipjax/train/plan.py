"""What a run would need of a machine that need not be there: memory, collectives, time.

The step that `clipjax train` runs is compiled for the machine; nothing is initialised, loaded or
run.
"""

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from clipjax.config import TrainConfig, UserError
from clipjax.core.collectives import collectives
from clipjax.core.mesh import make_mesh
from clipjax.core.topologies import Topology, devices_of
from clipjax.train.flops import training_flops
from clipjax.train.plan_cost import executed_flops, loss_flops
from clipjax.train.plan_memory import compile_for, gradient_bytes, memory_classes
from clipjax.train.plan_time import ASSUMPTIONS, domains_of, roofline, rows_of
from clipjax.train.setup import batch_spec
from clipjax.train.state import abstract_state, optimizer_of, sharding_warnings


def plan_mesh(config: TrainConfig, devices: Sequence[Any]) -> tuple[Mesh, list[str]]:
    """Returns the mesh of a config over devices, and what is odd about it, a sentence each.

    Args:
        config: of the run.
        devices: of `clipjax.core.topologies.devices_of`.

    Raises:
        UsageError: if the mesh does not fill the devices, an axis of it splits nothing, or the
            batch cannot be split over it.
    """
    mesh = make_mesh(config.mesh, devices=devices)
    batch_spec(config, mesh)
    state = abstract_state(config, optimizer_of(config), mesh)
    return mesh, sharding_warnings(config, state, mesh)


def planned_config(config: TrainConfig, topology: Topology) -> tuple[TrainConfig, list[str]]:
    """Returns what of a run is planned, and what is left out of it, a sentence each.

    Raises:
        UserError: if cuDNN is asked for by name and is not installed.
    """
    left_out = []
    compute = config.model.compute
    if topology.platform == "gpu" and compute.attention == "cudnn" and not _has_cudnn():
        raise UserError(
            "config.model.compute.attention='cudnn' asks cuDNN when it is traced, which is not "
            "installed. Run pip install nvidia-cudnn-cu13, or plan with attention=xla."
        )
    if topology.platform == "gpu" and compute.attention == "auto" and not _has_cudnn():
        left_out.append(
            "attention is planned as 'xla', which needs more memory than 'cudnn': cuDNN, which "
            "'auto' asks when it is traced, is not installed (pip install nvidia-cudnn-cu13)."
        )
        compute = dataclasses.replace(compute, attention="xla")
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, compute=compute)
        )
    if config.stages:
        left_out.append(
            "the run has stages; planned is a run that is as large all along as its largest."
        )
        most = max(part.config.data.global_batch_size for part in config.parts)
        data = dataclasses.replace(config.data, global_batch_size=most)
        config = dataclasses.replace(config, stages={}, data=data)
    if config.distill.teacher:
        left_out.append("distill.teacher is left out: its parameters and passes come on top.")
    return config, left_out


def _has_cudnn() -> bool:
    try:
        return importlib.util.find_spec("nvidia.cudnn") is not None
    except ModuleNotFoundError:
        return False


def plan(config: TrainConfig, topology: Topology, *, quick: bool = False) -> dict[str, Any]:
    """Returns the figures of a run on a machine, as `clipjax plan --json` writes them.

    Args:
        config: of the run.
        topology: the machine.
        quick: as in `compile_for`.

    Raises:
        UsageError: as `plan_mesh`.
        UserError: if the compiler's package is missing.
    """
    config, left_out = planned_config(config, topology)
    mesh, warnings = plan_mesh(config, devices_of(topology))
    compilation = compile_for(config, topology, mesh, quick=quick)
    memory = memory_classes(config, topology, mesh, compilation)
    of_towers, of_loss = executed_flops(config), loss_flops(config)
    executed = (of_towers + of_loss) // mesh.size
    rows = None
    bounds = None
    if compilation.text is not None:
        found = collectives(compilation.text, dict(mesh.shape), list(mesh.devices.flat))
        rows = rows_of(found, config, topology, domains_of(topology, mesh))
        bounds = roofline(
            config,
            topology,
            flops=executed,
            memory_bytes=_traffic(config, mesh, memory),
            collectives=rows,
        )
    return {
        "topology": _machine(topology),
        "mesh": dict(mesh.shape),
        "global_batch_size": config.data.global_batch_size,
        "micro_batches": config.micro_batches,
        "remat": config.model.compute.remat,
        "memory": memory,
        "flops": {
            "model_per_pair": training_flops(config),
            "executed_per_pair": of_towers / config.data.global_batch_size,
            "loss": of_loss,
            "per_device": executed,
        },
        "collectives": rows,
        "roofline": bounds,
        "warnings": [*left_out, *warnings],
        "quick": quick and topology.platform == "tpu",
        "seconds": {
            "lower": compilation.lower_seconds,
            "compile": compilation.compile_seconds,
        },
        "assumptions": list(ASSUMPTIONS),
        "versions": {"jax": jax.__version__},
    }


def _machine(topology: Topology) -> dict[str, Any]:
    chip = topology.chip
    return {
        "name": topology.name,
        "platform": topology.platform,
        "devices": topology.num_devices,
        "slices": topology.slices,
        "chip": None if chip is None else dataclasses.asdict(chip),
        "link_bandwidth": topology.link_bandwidth,
    }


def _traffic(config: TrainConfig, mesh: Mesh, memory: dict[str, Any]) -> int:
    state = memory["parameters"] + memory["optimizer"] + memory["ema"]
    gradients = gradient_bytes(config, mesh)
    saved = memory["activations"] * config.micro_batches
    return 2 * (state + gradients + saved) + memory["batch"]
