"""How much memory of a device a step takes, and what for."""

import dataclasses
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clipjax.config import Stage, TrainConfig
from clipjax.core.mesh import batch_sharding, replicated
from clipjax.core.sharding_report import shard_bytes
from clipjax.core.topologies import Topology
from clipjax.losses import make_loss
from clipjax.train.plan_cost import saved_bytes_of_pair
from clipjax.train.plan_outline import Outline
from clipjax.train.programs import lowered_step, stage_specs
from clipjax.train.setup import batch_spec
from clipjax.train.state import trained_of

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compilation:
    """What became of a step that was compiled.

    Attributes:
        needed_bytes: memory that it takes of one device, arguments included.
        fits: whether the device has so much; True where that is not known (CPU).
        temporary_bytes: of them, beyond the arguments; None if the compiler gave up.
        text: the program; None if the compiler gave up, or is newer than what could read it.
        lower_seconds: of tracing and lowering.
        compile_seconds: of XLA.
    """

    needed_bytes: int
    fits: bool
    temporary_bytes: int | None
    text: str | None
    lower_seconds: float
    compile_seconds: float


def compile_for(
    run: Outline, stage: Stage, topology: Topology, *, quick: bool = False
) -> Compilation:
    """Compiles the step of a stage, for devices that need not be there.

    Args:
        run: on the mesh of the machine.
        stage: of the run; the largest of its programs, where texts have several lengths.
        topology: the machine.
        quick: TPU: with the least optimisation, which takes less time and some more memory.
    """
    start = time.perf_counter()
    batch = stage_specs(stage, run.mesh)[-1]
    lowered = lowered_step(
        run.config, run.optimizer, run.mesh, run.state, stage, batch, run.teacher
    )
    lowered_at = time.perf_counter()
    try:
        compiled = compiled_on(lowered, topology, quick=quick)
    except jax.errors.JaxRuntimeError as error:
        needed = out_of_memory_bytes(str(error), _argument_bytes(run, batch))
        if needed is None:
            raise
        return Compilation(
            needed_bytes=needed,
            fits=False,
            temporary_bytes=None,
            text=None,
            lower_seconds=lowered_at - start,
            compile_seconds=time.perf_counter() - lowered_at,
        )
    stats = compiled.memory_analysis()
    assert stats is not None
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    needed = held + stats.temp_size_in_bytes
    if topology.platform == "tpu":
        # Its compiler shares buffers that the sum counts twice, and compares this with the memory.
        needed = stats.peak_memory_in_bytes
    chip = topology.chip
    return Compilation(
        needed_bytes=needed,
        fits=chip is None or needed <= chip.usable_bytes,
        temporary_bytes=stats.temp_size_in_bytes,
        text=_text(compiled),
        lower_seconds=lowered_at - start,
        compile_seconds=time.perf_counter() - lowered_at,
    )


def _text(compiled: Any) -> str | None:
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError:
        return None


def compiled_on(lowered: Any, topology: Topology, *, quick: bool = False) -> Any:
    """Returns the compiled program.

    Args:
        lowered: of `jax.jit(...).lower`.
        topology: the machine.
        quick: as in `compile_for`.
    """
    if topology.platform == "gpu":
        # Without a GPU nothing can be timed, which is how Triton's tiles are chosen; some have
        # none without it (XLA of jax 0.10.2: "Couldn't find output tile sizes").
        return lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})
    if topology.platform != "tpu" or not quick:
        return lowered.compile()
    before = jax.config.jax_optimization_level  # type: ignore[attr-defined]
    jax.config.update("jax_optimization_level", "O0")
    try:
        return lowered.compile()
    finally:
        jax.config.update("jax_optimization_level", before)


def out_of_memory_bytes(message: str, argument_bytes: int) -> int | None:
    """Returns what the TPU's compiler would have needed, by its error; None for other errors.

    Args:
        message: of the error.
        argument_bytes: of one device, which one form of the message leaves out.

    >>> out_of_memory_bytes("HLO temporaries (18.00G) exceeds available HBM (15.75G)", 1 << 30)
    20401094656
    """
    if "RESOURCE_EXHAUSTED" not in message and "exceeds available HBM" not in message:
        return None
    found = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", message)
    arguments = argument_bytes if "temporaries" in message else 0
    if found is None:
        found, arguments = re.search(r"Used ([\d.]+)([KMGT]?) of ", message), 0
    return None if found is None else int(float(found[1]) * _UNITS[found[2]]) + arguments


def _argument_bytes(run: Outline, batch: Any) -> int:
    taught_by = {} if run.teacher is None else run.teacher.params
    return shard_bytes((run.state, batch, taught_by))


def memory_classes(
    run: Outline, stage: Stage, topology: Topology, compilation: Compilation
) -> dict[str, Any]:
    """Returns bytes of one device in the steps of a stage by what they are for.

    `parameters`, `optimizer`, `ema`, `teacher` (its parameters) and `batch` are exact.
    `activations` is what the backward pass finds saved, by the trace: without the padding of
    layouts. `loss` is what the contrastive loss needs when it is compiled alone. `other` is what is
    left: gradients, gathered weights, work space; never less than 0, as not all of them are alive
    at once.
    """
    config, mesh, state = stage.config, run.mesh, run.state
    exact = {
        "parameters": shard_bytes((state.params, state.model_state)),
        "optimizer": shard_bytes(state.opt_state),
        "ema": shard_bytes(state.ema),
        "teacher": shard_bytes((state.self_teacher, run.teacher and run.teacher.params)),
        "batch": shard_bytes(batch_spec(config, mesh)),
    }
    rows = batch_sharding(mesh).shard_shape((config.data.global_batch_size,))[0]
    estimates = {
        "activations": round(saved_bytes_of_pair(config) * rows / config.micro_batches),
        "loss": loss_bytes(config, topology, mesh),
    }
    known = sum(exact.values()) + sum(estimates.values())
    chip = topology.chip
    return {
        **exact,
        **estimates,
        "other": max(compilation.needed_bytes - known, 0),
        "estimates": [*estimates, "other"],
        "temporaries": compilation.temporary_bytes,
        "needed": compilation.needed_bytes,
        "usable": None if chip is None else chip.usable_bytes,
        "device": None if chip is None else chip.memory_bytes,
        "fits": compilation.fits,
    }


def gradient_bytes(run: Outline, stage: Stage) -> int:
    """Returns what one device holds of the gradients of what a stage trains, in float32."""
    params = run.state.params
    which = trained_of(stage.config, params)
    return shard_bytes({name: leaf for name, leaf in params.items() if which[name]})


def loss_bytes(config: TrainConfig, topology: Topology, mesh: Mesh) -> int:
    """Returns the temporaries of the contrastive loss and its gradient, compiled alone.

    Args:
        config: of a stage.
        topology: the machine.
        mesh: over its devices.
    """
    if not config.loss.contrastive_weight:
        return 0
    size = config.data.global_batch_size
    if config.loss.over == "micro_batch":
        size //= config.micro_batches
    embeds = jax.ShapeDtypeStruct(
        (size, config.model.embed_dim), jnp.float32, sharding=batch_sharding(mesh)
    )
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    loss, biased = make_loss(config.loss, mesh), config.model.init_logit_bias is not None

    def of_embeds(images: Any, texts: Any, scale: Any, bias: Any) -> Any:
        return loss(images, texts, scale, bias if biased else None, None)

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.value_and_grad(of_embeds, (0, 1, 2))).lower(
            embeds, embeds, number, number
        )
    try:
        compiled = compiled_on(lowered, topology, quick=True)
    except jax.errors.JaxRuntimeError as error:
        needed = out_of_memory_bytes(str(error), 0)
        if needed is None:
            raise
        return needed
    return compiled.memory_analysis().temp_size_in_bytes
