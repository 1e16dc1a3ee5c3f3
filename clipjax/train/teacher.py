"""The model that a run learns from (section `distill`)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from clipjax.config import ComputeConfig, DualEncoderConfig, TrainConfig, UserError, preset
from clipjax.data.tokenizers import AbsentTokenizer, Tokenizer
from clipjax.interchange.load_weights import param_shardings
from clipjax.interchange.pretrained import Pretrained, open_pretrained
from clipjax.losses import Loss, distillation_loss, make_walk, streaming_distillation_loss
from clipjax.models import param_shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen model that sees the images and the tokens of the student.

    Its parameters are an argument of the compiled step, split over the mesh like those of the
    student: as constants of the program they would be whole on every device. They are not donated,
    and a checkpoint does not hold them: they are read again from where they were.

    Attributes:
        config: of the model, computed in the precision of the student.
        params: parameters and statistics by name.
        loss: `distillation_loss` in the form of the contrastive loss.
    """

    config: DualEncoderConfig
    params: Any
    loss: Loss


def open_teacher(config: TrainConfig, tokenizer: Tokenizer, mesh: Mesh) -> Teacher | None:
    """Reads the teacher of a run; None without `distill.teacher`.

    Args:
        config: of the run.
        tokenizer: of the student.
        mesh: of the run.

    Raises:
        UserError: if it does not read the images and the tokens of the student.
    """
    if not config.distill.teacher:
        return None
    found = open_pretrained(config.distill.teacher, preset_name=config.distill.preset or None)
    for problem in _problems(config, found, tokenizer):
        raise UserError(f"config.distill.teacher={found.spec}: {problem}")
    model = _computed_as(config, found.config)
    return Teacher(
        config=model,
        params=dict(found.params(model, mesh)),
        loss=_loss(config, mesh),
    )


def described_teacher(config: TrainConfig, mesh: Mesh) -> Teacher | None:
    """Returns the teacher of a run with `jax.ShapeDtypeStruct`s for its parameters, none read.

    With `distill.preset` its files need not be there. Its tokenizer is not compared.

    Args:
        config: of the run.
        mesh: its devices need not be there.

    Raises:
        UserError: if it is not found, or does not read images and texts of the student's sizes.
    """
    named, where = config.distill.preset, config.distill.teacher
    if not where:
        return None
    found = preset(named) if named else open_pretrained(where).config
    for problem in _misfits(config, found):
        raise UserError(f"config.distill.teacher={where}: {problem}")
    model = _computed_as(config, found)
    shapes, places = param_shapes(model), param_shardings(model, mesh)
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=places[name])
        for name, shape in shapes.items()
    }
    return Teacher(config=model, params=params, loss=_loss(config, mesh))


def _computed_as(config: TrainConfig, teacher: DualEncoderConfig) -> DualEncoderConfig:
    own = config.model.compute
    compute = ComputeConfig(dtype=own.dtype, scan_layers=own.scan_layers, attention=own.attention)
    return dataclasses.replace(teacher, compute=compute)


def _loss(config: TrainConfig, mesh: Mesh) -> Loss:
    walk = make_walk(config.loss, mesh)
    if walk is None:
        return distillation_loss
    return functools.partial(streaming_distillation_loss, walk=walk)


def _problems(config: TrainConfig, found: Pretrained, tokenizer: Tokenizer) -> list[str]:
    """Returns why a model cannot teach the student."""
    problems = []
    if found.directory is None:
        problems.append("a preset has no weights to learn from. Give a path or hf:ORG/NAME.")
    problems += _misfits(config, found.config)
    if isinstance(found.tokenizer, AbsentTokenizer):
        problems.append(
            f"came without its tokenizer ({found.tokenizer.reason}): whether its token ids mean "
            "the words of the student's, nobody can tell. Put its tokenizer beside the weights."
        )
    elif found.tokenizer.digest() != tokenizer.digest():
        problems.append(
            "its tokenizer is another one than the student's, so that equal ids mean other words. "
            "Set config.tokenizer to that of the teacher, or begin with config.init.from="
            f"{found.spec}."
        )
    return problems


def _misfits(config: TrainConfig, theirs: DualEncoderConfig) -> list[str]:
    """Returns where the sizes of a model are not those of the student."""
    ours, problems = config.model, []
    if ours.image.image_size != theirs.image.image_size:
        problems.append(
            f"its images have {theirs.image.image_size} pixels a side, those of the student "
            f"{ours.image.image_size}. Set config.model.image.image_size={theirs.image.image_size},"
            " or give a teacher of that size."
        )
    if ours.text.context_length != theirs.text.context_length:
        problems.append(
            f"its texts have {theirs.text.context_length} tokens, those of the student "
            f"{ours.text.context_length}. Set config.model.text.context_length="
            f"{theirs.text.context_length}."
        )
    if config.distill.feature_weight and ours.embed_dim != theirs.embed_dim:
        problems.append(
            f"its embeddings have {theirs.embed_dim} coordinates, those of the student "
            f"{ours.embed_dim}, which have no distance. Set config.distill.feature_weight=0."
        )
    return problems


def placed_like(teacher: Teacher) -> Any:
    """Returns the shardings of the teacher's parameters."""
    return jax.tree.map(lambda leaf: leaf.sharding, teacher.params)
