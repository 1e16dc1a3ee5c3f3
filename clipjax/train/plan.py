"""What a run would need of a machine that need not be there: memory, collectives, time.

The step that `clipjax train` runs is compiled for the machine; nothing is initialised, loaded or
run.
"""

import dataclasses
import importlib.metadata
import importlib.util
from typing import Any

import jax

from clipjax.config import Stage, TrainConfig, UserError
from clipjax.core.collectives import collectives
from clipjax.core.topologies import COMPILERS, Topology, devices_of
from clipjax.models.cost import pair_forward_flops
from clipjax.train.flops import training_flops
from clipjax.train.plan_cost import executed_flops, loss_flops
from clipjax.train.plan_memory import compile_for, gradient_bytes, memory_classes
from clipjax.train.plan_outline import Outline, outline
from clipjax.train.plan_time import ASSUMPTIONS, domains_of, roofline, rows_of, total


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
    return config, left_out


def _has_cudnn() -> bool:
    try:
        return importlib.util.find_spec("nvidia.cudnn") is not None
    except ModuleNotFoundError:
        return False


def plan(config: TrainConfig, topology: Topology, *, quick: bool = False) -> dict[str, Any]:
    """Returns the figures of a run on a machine, as `clipjax plan --json` writes them.

    A run without stages has one, whose name is empty. Whether the run fits is decided by the stage
    that needs the most memory.

    Args:
        config: of the run.
        topology: the machine.
        quick: as in `compile_for`.

    Raises:
        UsageError: as `outline`.
        UserError: if the compiler's package is missing.
    """
    config, left_out = planned_config(config, topology)
    run = outline(config, devices_of(topology))
    stages = [_of_stage(run, stage, topology, quick=quick) for stage in config.parts]
    tightest = max(stages, key=lambda stage: stage["memory"]["needed"])
    if any(one["memory"]["fits"] and one["collectives"] is None for one in stages):
        left_out.append(
            "collectives and times are left out: the compiler is newer than jax "
            f"{jax.__version__}, which cannot read its programs. Install the one that jax asks "
            f"for: pip install 'clipjax[plan-{topology.platform}]'."
        )
    chip = topology.chip
    return {
        "topology": _machine(topology),
        "mesh": dict(run.mesh.shape),
        "micro_batches": config.micro_batches,
        "remat": config.model.compute.remat,
        "fits": all(stage["memory"]["fits"] for stage in stages),
        "tightest": tightest["name"],
        "stages": stages,
        "total": total([stage["roofline"] for stage in stages], topology),
        "warnings": [*left_out, *run.warnings],
        "quick": quick and topology.platform == "tpu",
        "assumptions": [
            *([] if chip is None else [f"Peaks and bandwidths of a device: {chip.source}."]),
            *ASSUMPTIONS,
        ],
        "versions": {"jax": jax.__version__, **_compiler(topology)},
    }


def _of_stage(run: Outline, stage: Stage, topology: Topology, *, quick: bool) -> dict[str, Any]:
    config, mesh, teacher = stage.config, run.mesh, run.teacher
    compilation = compile_for(run, stage, topology, quick=quick)
    memory = memory_classes(run, stage, topology, compilation)
    of_towers, of_loss = executed_flops(run.config, stage, teacher), loss_flops(config, teacher)
    executed = (of_towers + of_loss) // mesh.size
    rows = bounds = None
    if compilation.text is not None:
        found = collectives(compilation.text, dict(mesh.shape), list(mesh.devices.flat))
        models = [config.model, *([] if teacher is None else [teacher.config])]
        rows = rows_of(found, models, topology, domains_of(topology, mesh))
        bounds = roofline(
            stage,
            topology,
            flops=executed,
            memory_bytes=_traffic(run, stage, memory),
            collectives=rows,
        )
    return {
        "name": stage.name,
        "first_step": stage.first_step,
        "stop_step": stage.stop_step,
        "global_batch_size": config.data.global_batch_size,
        "memory": memory,
        "flops": {
            "model_per_pair": training_flops(config),
            "teacher_per_pair": 0 if teacher is None else pair_forward_flops(teacher.config),
            "executed_per_pair": of_towers / config.data.global_batch_size,
            "loss": of_loss,
            "per_device": executed,
        },
        "collectives": rows,
        "roofline": bounds,
        "seconds": {
            "lower": compilation.lower_seconds,
            "compile": compilation.compile_seconds,
        },
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


def _compiler(topology: Topology) -> dict[str, str]:
    package = COMPILERS.get(topology.platform)
    return {} if package is None else {package: importlib.metadata.version(package)}


def _traffic(run: Outline, stage: Stage, memory: dict[str, Any]) -> int:
    state = memory["parameters"] + memory["optimizer"] + memory["ema"]
    saved = memory["activations"] * stage.config.micro_batches
    read = memory["batch"] + memory["teacher"]
    return 2 * (state + gradient_bytes(run, stage) + saved) + read
