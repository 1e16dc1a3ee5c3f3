"""Checks of a run over several of its sections."""

import dataclasses
import typing

from clipjax.config.image_towers import ViTConfig
from clipjax.config.text_towers import TextConfig

if typing.TYPE_CHECKING:
    from clipjax.config.train import TrainConfig


def check_objectives(config: "TrainConfig") -> None:
    """Raises ValueError if a run has nothing to minimise, or no part of the model for it."""
    decoder, loss = config.model.decoder, config.loss
    if config.model.compute.dtype == "float16":
        raise ValueError(
            "model.compute.dtype='float16' is for encoding: gradients would vanish in it. Set "
            "'bfloat16'"
        )
    if not (loss.contrastive_weight or loss.caption_weight or config.distill.teacher):
        raise ValueError(
            "loss.contrastive_weight=0, loss.caption_weight=0 and no distill.teacher: there is "
            "nothing to minimise"
        )
    if config.distill.teacher and (config.data.text_buckets or config.data.image_mode == "naflex"):
        raise ValueError(
            f"distill.teacher={config.distill.teacher!r} reads square images and whole texts: "
            "leave out data.text_buckets and data.image_mode='naflex'"
        )
    dims, whole = loss.matryoshka_dims, config.model.embed_dim
    if dims and max(dims) != whole:
        raise ValueError(
            f"loss.matryoshka_dims={dims} must be at most model.embed_dim={whole} and include "
            "it: the whole embeddings, which are evaluated, would not be trained otherwise"
        )
    if loss.caption_weight and decoder is None:
        raise ValueError(
            f"loss.caption_weight={loss.caption_weight} needs model.decoder, which predicts "
            "the captions: set it (kind='coca' or 'cappa'), or loss.caption_weight=0"
        )
    if loss.matching_weight:
        _check_matching(config)
    if config.self_distill.is_on:
        _check_self_distill(config)
    locked = config.optim.lock_text == 0 or "text/*" in config.optim.freeze
    embeddings_count = loss.contrastive_weight or config.distill.teacher
    if decoder is None or embeddings_count or decoder.kind != "cappa":
        return
    if not locked and not config.optim.lora.rank:
        raise ValueError(
            "loss.contrastive_weight=0 trains nothing of model.text, which "
            "model.decoder.kind='cappa' does not read and weight decay alone would then move: "
            "set optim.lock_text=0"
        )


def check_best_metric(config: "TrainConfig") -> None:
    """Raises ValueError if the best checkpoint is to be kept by what no checkpoint is scored by."""
    metric, every = config.checkpoint.best_metric, config.checkpoint.every_steps
    if not metric:
        return
    if not config.evals.every_steps or config.evals.every_steps % every:
        raise ValueError(
            f"checkpoint.best_metric={metric!r} needs evaluations of checkpoints: evals.every_steps"
            f"={config.evals.every_steps} must be a multiple of checkpoint.every_steps={every}"
        )
    parts = metric.split("/")
    tasks = list(config.evals.tasks)
    known = config.evals.suite or any(metric.startswith(f"eval/{task}/") for task in tasks)
    if parts[0] != "eval" or len(parts) < 3 or not known:
        names = ", ".join(f"eval/{task}/METRIC" for task in tasks) or "eval/TASK/METRIC"
        raise ValueError(f"checkpoint.best_metric={metric!r}: expected one of {names}")


def _check_matching(config: "TrainConfig") -> None:
    if config.model.matching is None:
        raise ValueError(
            f"loss.matching_weight={config.loss.matching_weight} needs model.matching, which tells "
            "right pairs from wrong ones: set it, or loss.matching_weight=0"
        )
    if config.optim.lora.rank and not any(
        pattern.startswith("!matching") for pattern in config.optim.freeze
    ):
        raise ValueError(
            f"optim.lora.rank={config.optim.lora.rank} leaves model.matching as it began: name it "
            "as trained, optim.freeze=('!matching/*',), or set loss.matching_weight=0 and "
            "model.matching=None"
        )
    if config.micro_batches > 1 and config.loss.over == "batch":
        raise ValueError(
            f"loss.matching_weight with micro_batches={config.micro_batches}: a wrong partner may "
            "be in any part of the batch, and the image tokens of all parts would be kept. Set "
            "loss.over='micro_batch', which draws partners in the part itself"
        )


def _check_self_distill(config: "TrainConfig") -> None:
    found, image = config.self_distill, config.model.image
    if config.model.self_distill is None:
        raise ValueError(
            f"self_distill.crop_weight={found.crop_weight} and patch_weight={found.patch_weight} "
            "need the heads of model.self_distill: set it, or both weights to 0"
        )
    assert isinstance(image, ViTConfig)  # else there were no heads
    if config.data.image_mode == "naflex":
        raise ValueError(
            "self_distill cuts its crops out of square images: leave out it or "
            "data.image_mode='naflex'"
        )
    still = {
        f"lora.rank={config.optim.lora.rank}": bool(config.optim.lora.rank),
        "lock_image=0": config.optim.lock_image == 0,
        f"freeze={config.optim.freeze}": "image/*" in config.optim.freeze,
    }
    for field in [name for name, is_so in still.items() if is_so]:
        raise ValueError(
            f"optim.{field}: the image tower, whose own average self_distill follows, would not "
            "move. Leave one of the two out"
        )
    if found.crop_weight and found.crop_size > image.image_size:
        raise ValueError(
            f"self_distill.crop_size={found.crop_size} is more than model.image.image_size="
            f"{image.image_size}"
        )
    if found.crop_weight and found.crop_size % image.patch_size:
        nearest = max(found.crop_size // image.patch_size, 1) * image.patch_size
        raise ValueError(
            f"self_distill.crop_size={found.crop_size} is no multiple of model.image.patch_size="
            f"{image.patch_size}: set {nearest} or {nearest + image.patch_size}"
        )
    hidden = round(found.masked_share * image.num_patches)
    if found.patch_weight and not 0 < hidden < image.num_patches:
        raise ValueError(
            f"self_distill.masked_share={found.masked_share} of {image.num_patches} patches are "
            f"{hidden}: some must be hidden and some seen"
        )


def check_buckets(config: "TrainConfig") -> None:
    """Raises ValueError unless the lengths of the batches fit the text tower."""
    buckets, text = config.data.text_buckets, config.model.text
    if buckets[-1] != text.context_length:
        raise ValueError(
            f"data.text_buckets={buckets} must end with model.text.context_length="
            f"{text.context_length}"
        )
    if not isinstance(text, TextConfig) or not text.causal or text.pool != "eot":
        found = "" if not isinstance(text, TextConfig) else f" and causal={text.causal}"
        raise ValueError(
            "data.text_buckets needs model.text.causal=True, kind='transformer' and "
            f"pool='eot', not {text.kind!r}, {text.pool!r}{found}: there padding is seen, so "
            "its length would change the embeddings"
        )


def check_naflex(config: "TrainConfig") -> None:
    """Raises ValueError unless the run can take images of all shapes."""
    if config.model.image.kind != "vit":
        raise ValueError(
            "data.image_mode='naflex' cuts images into patches: model.image.kind="
            f"{config.model.image.kind!r} cannot read them, only 'vit' can"
        )
    changed = [
        f"augment.{field.name}"
        for field in dataclasses.fields(config.augment)
        if getattr(config.augment, field.name) != field.default
    ]
    if changed:
        raise ValueError(
            f"data.image_mode='naflex' has no whole images to change: leave out "
            f"{', '.join(changed)}"
        )
