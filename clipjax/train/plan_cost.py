"""What a step costs a pair, read from its trace: nothing is compiled, no device is needed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.config import Stage, TrainConfig
from clipjax.core.flops import program_flops
from clipjax.data.training_images import row_spec
from clipjax.models import patches_of
from clipjax.train.objectives import loss_of_pairs
from clipjax.train.state import TrainState, init_state, optimizer_of, trained_of
from clipjax.train.step import make_train_step
from clipjax.train.teacher import Teacher

# What is traced for so many pairs and for twice as many differs by what pairs cost, without what
# is there once.
_ROWS = 2


def executed_flops(
    config: TrainConfig, stage: Stage | None = None, teacher: Teacher | None = None
) -> int:
    """Returns the FLOPs of a step over all devices, those that are computed again included.

    Products and convolutions of the towers, those of the teacher too, and the optimizer; the loss
    is left out. Unlike `training_flops`, what the backward pass computes again (`compute.remat`,
    `micro_batches`) and what it need not compute (the gradient of the images) are counted as they
    are.

    Args:
        config: of the run.
        stage: whose step it is; the first one by default.
        teacher: that the run learns from.
    """
    whole = dataclasses.replace(config, loss=dataclasses.replace(config.loss, over="batch"))
    first = 0 if stage is None else stage.first_step
    stage = next(part for part in whole.parts if part.first_step == first)
    rows = _ROWS * stage.config.micro_batches
    optimizer = optimizer_of(whole)
    taught_by: tuple[Any, ...] = ()
    if teacher is not None:
        teacher = dataclasses.replace(teacher, loss=_no_loss)
        taught_by = ({name: _described(leaf) for name, leaf in teacher.params.items()},)
    step = make_train_step(whole, optimizer, _no_loss, stage, teacher)
    state = jax.eval_shape(lambda: init_state(whole, optimizer))
    one, two = (
        program_flops(step, state, _batch(stage.config, count), *taught_by)
        for count in (rows, 2 * rows)
    )
    return one + round((two - one) * (stage.config.data.global_batch_size / rows - 1))


def loss_flops(config: TrainConfig, teacher: Teacher | None = None) -> int:
    """Returns the FLOPs of the products of the losses of a batch that compare all its pairs.

    Every image with every text: once forward and once for the gradient of each side. The softmax
    in blocks forms the logits again in the backward pass, those of a teacher too.

    Args:
        config: of a stage.
        teacher: whose logits the run learns from.
    """
    parts = config.micro_batches if config.loss.over == "micro_batch" else 1
    size = config.data.global_batch_size // parts
    in_blocks = config.loss.form != "plain"
    channels = 0
    if config.loss.contrastive_weight:
        again = config.loss.kind == "softmax" and in_blocks
        channels += (4 if again else 3) * sum(
            config.loss.matryoshka_dims or (config.model.embed_dim,)
        )
    if teacher is not None and config.distill.logit_weight:
        channels += (4 if in_blocks else 3) * config.model.embed_dim
        channels += (2 if in_blocks else 1) * teacher.config.embed_dim
    return parts * 2 * size * size * channels


def saved_bytes_of_pair(config: TrainConfig) -> float:
    """Returns what the backward pass finds saved of one pair, as `compute.remat` says.

    As the trace has it: XLA may pad it, keep it in another type or compute it again. What a
    teacher computes is not kept.

    Args:
        config: of a stage.
    """
    config = dataclasses.replace(
        config, micro_batches=1, loss=dataclasses.replace(config.loss, over="batch")
    )
    optimizer = optimizer_of(config)
    state = jax.eval_shape(lambda: init_state(config, optimizer))
    which = trained_of(config, state.params)
    moving = {name: leaf for name, leaf in state.params.items() if which[name]}

    def backward(moving: Any, state: TrainState, batch: Any) -> Any:
        def loss(moving: Any) -> Any:
            params = {**state.params, **moving}
            pairs = _images(config, batch), batch["tokens"]
            return loss_of_pairs(
                config, _no_loss, params, state, pairs, None, jax.random.key(config.seed)
            )

        return jax.vjp(loss, moving, has_aux=True)[1]

    def saved(rows: int) -> int:
        leaves = jax.tree.leaves(jax.eval_shape(backward, moving, state, _batch(config, rows)))
        plain = [x for x in leaves if not jnp.issubdtype(x.dtype, jax.dtypes.extended)]
        return sum(x.size * x.dtype.itemsize for x in plain)

    return (saved(2 * _ROWS) - saved(_ROWS)) / _ROWS


def _no_loss(images: jax.Array, texts: jax.Array, *_: Any) -> jax.Array:
    """Has a gradient and no products."""
    return images.astype(jnp.float32).sum() + texts.astype(jnp.float32).sum()


def _described(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _batch(config: TrainConfig, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = row_spec(config.data, config.model.image, config.model.text.context_length)
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype) for name, (shape, dtype) in shapes.items()
    }


def _images(config: TrainConfig, batch: Any) -> Any:
    if "patches" in batch:
        return patches_of(batch)
    if "images" in batch:
        return batch["images"]
    side = config.model.image.image_size  # the device cuts them out first
    return jnp.zeros((len(batch["tokens"]), side, side, 3), jnp.uint8)
