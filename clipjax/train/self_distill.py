"""The image tower learns from its own moving average (section `self_distill`).

The average sees the whole image, the tower small crops of it, and the image with patches hidden.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

from clipjax.config import DualEncoderConfig, SelfDistillConfig, TrainConfig, ViTConfig
from clipjax.losses import Prototypes, chunked_prototype_losses, updated_center
from clipjax.models import DualEncoder, with_params
from clipjax.models.self_distill import PrototypeHead, unit
from clipjax.models.surgery import position_maps, with_positions
from clipjax.train.augment import row_keys
from clipjax.train.device_crop import crop_and_resize

AVERAGED = ("crops", "patches")
"""Rows of what the teacher has seen, whose means move its centers."""

_HEADS = "self_distill/"
_LOG_ASPECT = math.log(4 / 3)  # RandomResizedCrop's
Average = Mapping[str, Mapping[str, Array]]
"""`params`: of the image tower and the heads, by name; `centers`: of the teacher's logits."""

Means = dict[str, Float[Array, " bottleneck"]]
"""Of what the teacher has seen, over a batch."""


def first_average(config: TrainConfig, params: Mapping[str, Array]) -> Average:
    """Returns the average before the first step; nothing for a model without heads."""
    heads = config.model.self_distill
    if heads is None:
        return {}
    centers = {name: jnp.zeros(heads.prototypes, jnp.float32) for name in AVERAGED}
    return {"params": {name: params[name].copy() for name in _followed(params)}, "centers": centers}


def next_average(
    config: TrainConfig,
    average: Average,
    params: Mapping[str, Array],
    seen: Mapping[str, Array],
    taken: Bool[Array, ""],
) -> Average:
    """Returns the average after a step: the parameters themselves where nothing is learnt from it.

    Args:
        config: of the stage.
        average: before the step.
        params: after it.
        seen: means of the teacher's features over the batch, of what is learnt.
        taken: whether the step was; otherwise nothing moves.
    """
    if not average:
        return average
    found, old = config.self_distill, average["params"]
    if not found.is_on:
        return {"params": {name: params[name] for name in old}, "centers": average["centers"]}
    share = jnp.where(taken, 1 - found.momentum, 0.0)
    moved = {name: value + share * (params[name] - value) for name, value in old.items()}
    centers = dict(average["centers"])
    for name, mean in seen.items():
        kernel = unit(old[f"{_HEADS}{name}/prototypes"], 0)
        new = updated_center(
            centers[name], mean[None, None], Prototypes(kernel, 1.0), found.center_momentum
        )
        centers[name] = jnp.where(taken, new, centers[name])
    return {"params": moved, "centers": centers}


def drawn_views(config: TrainConfig, rows: int, key: Key[Array, ""]) -> dict[str, Array]:
    """Returns what is drawn for the crops and the hidden patches of each image of a batch.

    Args:
        config: of the stage.
        rows: of the batch.
        key: of the step.
    """
    found, image, views = config.self_distill, config.model.image, {}
    assert isinstance(image, ViTConfig)
    keys = row_keys(key, rows)
    if found.crop_weight:
        boxes = jax.vmap(lambda key: _boxes(found, image.image_size, key))(keys)
        views |= {"boxes": boxes[0], "mirrored": boxes[1]}
    if found.patch_weight:
        side = image.image_size // image.patch_size
        views["hidden"] = jax.vmap(lambda key: _hidden(found, side, key))(keys)
    return views


def self_distillation(
    config: TrainConfig,
    params: Mapping[str, Array],
    average: Average,
    images: UInt8[Array, "batch side side 3"] | Float[Array, "batch side side 3"],
    views: Mapping[str, Array],
) -> dict[str, Array]:
    """Returns the losses of each image, and the teacher's features that move the centers.

    Args:
        config: of the stage.
        params: of the model, with batch statistics.
        average: as the step found it, positions of the size of the stage.
        images: values in [0, 255].
        views: of `drawn_views`.
    """
    found = config.self_distill
    kept = jax.lax.stop_gradient(dict(average["params"]))
    student = with_params(config.model, params)
    teacher = with_params(config.model, {**params, **kept})
    embeds, tokens = jax.lax.stop_gradient(teacher.image_features(images))
    centers, rows = average["centers"], {}
    if found.crop_weight:
        target = jax.lax.stop_gradient(teacher.self_distill.crops(embeds)[:, None])
        local, crops = _local(config.model, found.crop_size, params), _crops(found, images, views)
        seen = local.image_features(crops.reshape(-1, *crops.shape[2:]))[0]
        features = local.self_distill.crops(seen).reshape(*crops.shape[:2], -1)
        heads = local.self_distill.crops, teacher.self_distill.crops
        losses = _losses(found, features, target, heads, centers["crops"])
        rows |= {"crop_losses": losses.mean(axis=1), "crops": target[:, 0]}
    if found.patch_weight:
        places = views["hidden"]
        hidden = jax.vmap(lambda row: jnp.zeros(tokens.shape[1], bool).at[row].set(True))(places)
        shown = student.image_features(images, hidden)[1]
        features, targets = (
            model.self_distill.patches(jnp.take_along_axis(x, places[..., None], axis=1))
            for model, x in ((student, shown), (teacher, tokens))
        )
        targets = jax.lax.stop_gradient(targets)
        heads = student.self_distill.patches, teacher.self_distill.patches
        losses = _losses(found, features, targets, heads, centers["patches"])
        rows |= {"patch_losses": losses.mean(axis=1), "patches": targets.mean(axis=1)}
    return rows


def _followed(params: Mapping[str, Array]) -> list[str]:
    names = [name for name in params if name.startswith(("image/", _HEADS))]
    return [name for name in names if name != f"{_HEADS}mask_token"]  # the teacher sees everything


def _local(config: DualEncoderConfig, size: int, params: Mapping[str, Array]) -> DualEncoder:
    """Returns the model for images of the size of a crop."""
    image = dataclasses.replace(config.image, image_size=size)
    small = dataclasses.replace(config, image=image)
    return with_params(small, with_positions(position_maps(config, small), params))


def _crops(
    found: SelfDistillConfig, images: Array, views: Mapping[str, Array]
) -> Float[Array, "batch crops side side 3"]:
    def one(boxes: Float[Array, "batch 4"]) -> Float[Array, "batch side side 3"]:
        return crop_and_resize(images, boxes, found.crop_size, rounded=False)

    crops = jax.vmap(one, in_axes=1, out_axes=1)(views["boxes"])
    return jnp.where(views["mirrored"][..., None, None, None], crops[:, :, :, ::-1], crops)


def _losses(
    found: SelfDistillConfig,
    features: Array,
    targets: Array,
    heads: tuple[PrototypeHead, PrototypeHead],
    center: Array,
) -> Float[Array, "batch places"]:
    student, teacher = heads
    return chunked_prototype_losses(
        features,
        targets,
        Prototypes(student.kernel(), found.student_temperature),
        Prototypes(teacher.kernel(), found.teacher_temperature),
        center,
        block=found.prototype_block,
    )


def _boxes(
    found: SelfDistillConfig, side: int, key: Key[Array, ""]
) -> tuple[Float[Array, "crops 4"], Bool[Array, " crops"]]:
    """Returns left, top, right, bottom in pixels, and which crops are mirrored."""
    draws = jax.random.uniform(jax.random.fold_in(key, 0), (5, found.crops))
    least, most = found.crop_area
    area, aspect = least + (most - least) * draws[0], jnp.exp(_LOG_ASPECT * (2 * draws[1] - 1))
    width = jnp.minimum(jnp.sqrt(area * aspect), 1.0)
    height = jnp.minimum(jnp.sqrt(area / aspect), 1.0)
    left, top = draws[2] * (1 - width), draws[3] * (1 - height)
    boxes = jnp.stack([left, top, left + width, top + height], axis=-1)
    return side * boxes, draws[4] < found.flip


def _hidden(found: SelfDistillConfig, side: int, key: Key[Array, ""]) -> Int32[Array, " hidden"]:
    """Returns the places of the patches that are hidden: squares, at a random offset."""
    block, count = found.mask_block, round(found.masked_share * side**2)
    noise_key, offset_key = jax.random.split(jax.random.fold_in(key, 1))
    squares = -(-side // block) + 1
    noise = jax.random.uniform(noise_key, (squares, squares))
    noise = noise.repeat(block, axis=0).repeat(block, axis=1)
    offset = jax.random.randint(offset_key, (2,), 0, block)
    noise = jax.lax.dynamic_slice(noise, offset, (side, side))
    return jnp.argsort(noise.ravel())[:count].astype(jnp.int32)
