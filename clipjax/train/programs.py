"""The compiled steps of a run: one for each stage and length of text, all made before the first."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from clipjax.config import Stage, TrainConfig
from clipjax.losses import make_loss
from clipjax.train.setup import batch_spec
from clipjax.train.state import TrainState
from clipjax.train.step import Batch, Metrics, compile_step, make_train_step
from clipjax.train.teacher import Teacher

Spec = Mapping[str, jax.ShapeDtypeStruct]


class Programs:
    """Steps by stage and shape of the batch.

    Args:
        config: of the run.
        optimizer: of the run.
        mesh: of the run.
        state: arrays or what describes them, with shardings.
        teacher: that the run learns from.
        first_step: stages that end before it are not compiled.
        say: told how long each took and what memory it needs.
    """

    def __init__(
        self,
        config: TrainConfig,
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
        state: TrainState,
        teacher: Teacher | None = None,
        *,
        first_step: int = 0,
        say: Callable[[str], None],
    ):
        self._stages = [part for part in config.parts if part.stop_step > first_step]
        self._taught_by = () if teacher is None else (teacher.params,)
        self._programs: dict[tuple[int, int], Any] = {}
        for stage in self._stages:
            for spec in stage_specs(stage, mesh):
                start = time.perf_counter()
                program = lowered_step(config, optimizer, mesh, state, stage, spec, teacher)
                program = program.compile()
                self._programs[stage.first_step, spec["tokens"].shape[1]] = program
                say(_told(stage, spec, program, time.perf_counter() - start))

    def __call__(self, step: int, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Runs a step, counted from 0; the state is donated."""
        stage = next(part for part in self._stages if step < part.stop_step)
        return self._programs[stage.first_step, batch["tokens"].shape[1]](
            state, batch, *self._taught_by
        )


def lowered_step(
    config: TrainConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
    stage: Stage,
    spec: Spec,
    teacher: Teacher | None = None,
) -> Any:
    """Returns a step as it goes to the compiler: what `clipjax train` runs and `plan` looks at.

    Args:
        config: of the run.
        optimizer: of the run.
        mesh: of the run; its devices need not be there.
        state: arrays or what describes them, with shardings.
        stage: whose step it is.
        spec: of its batch.
        teacher: that the run learns from.
    """
    step = make_train_step(config, optimizer, make_loss(config.loss, mesh), stage, teacher)
    taught_by = () if teacher is None else (teacher.params,)
    with jax.set_mesh(mesh):
        return compile_step(step, state, spec, teacher).lower(state, spec, *taught_by)


def stage_specs(stage: Stage, mesh: Mesh) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """Returns shapes, dtypes and shardings of the batches of a stage: one for each text bucket."""
    spec = batch_spec(stage.config, mesh)
    tokens = spec["tokens"]
    lengths = stage.config.data.text_buckets or (tokens.shape[1],)
    return [
        {
            **spec,
            "tokens": jax.ShapeDtypeStruct(
                (tokens.shape[0], length), tokens.dtype, sharding=tokens.sharding
            ),
        }
        for length in lengths
    ]


def _told(stage: Stage, spec: Spec, program: Any, seconds: float) -> str:
    memory = program.memory_analysis()
    size, length = spec["tokens"].shape
    name = f"stage {stage.name} from step {stage.first_step:,}, " if stage.name else ""
    needs = ""
    if memory is not None:
        needs = (
            f"; a device needs {memory.argument_size_in_bytes / 2**20:,.0f} MiB for state and "
            f"batch, {memory.temp_size_in_bytes / 2**20:,.0f} MiB during a step"
        )
    return f"compiled in {seconds:.1f} s: {name}batch {size:,}, texts of {length}{needs}"
