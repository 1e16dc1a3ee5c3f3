"""What the stages of a run share on a machine that need not be there; nothing of it is made."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import optax
from jax.sharding import Mesh

from clipjax.config import TrainConfig
from clipjax.core.mesh import make_mesh
from clipjax.train.setup import batch_spec
from clipjax.train.state import TrainState, abstract_state, optimizer_of, sharding_warnings
from clipjax.train.teacher import Teacher, described_teacher


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outline:
    """A run on a mesh, as shapes and shardings.

    Attributes:
        config: of the run.
        mesh: over the devices of the machine.
        optimizer: of the run.
        state: `jax.ShapeDtypeStruct`s with shardings.
        teacher: that the run learns from, its parameters described in the same way.
        warnings: what is odd about where the state lies, a sentence each.
    """

    config: TrainConfig
    mesh: Mesh
    optimizer: optax.GradientTransformation
    state: TrainState
    teacher: Teacher | None
    warnings: list[str]


def outline(config: TrainConfig, devices: Sequence[Any]) -> Outline:
    """Returns a run on devices of `clipjax.core.topologies.devices_of`.

    Raises:
        UsageError: if the mesh does not fill the devices, an axis of it splits nothing, or the
            batch of a stage cannot be split over it.
        UserError: as `described_teacher`.
    """
    mesh = make_mesh(config.mesh, devices=devices)
    for stage in config.parts:
        batch_spec(stage.config, mesh)
    optimizer = optimizer_of(config)
    state = abstract_state(config, optimizer, mesh)
    return Outline(
        config=config,
        mesh=mesh,
        optimizer=optimizer,
        state=state,
        teacher=described_teacher(config, mesh),
        warnings=sharding_warnings(config, state, mesh),
    )
