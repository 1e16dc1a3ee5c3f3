"""Arithmetic of a training step: what model FLOPs utilisation counts."""

import dataclasses
import itertools

import jax

from clipjax.config import TrainConfig, ViTConfig
from clipjax.models import param_shapes
from clipjax.models.cost import (
    decoder_forward_flops,
    image_forward_flops,
    matching_forward_flops,
    text_forward_flops,
)
from clipjax.models.lora import init_lora
from clipjax.optim import trained_in_run


def training_flops(config: TrainConfig, num_tokens: int | None = None) -> int:
    """Returns the FLOPs of training on one pair; padding counts, recomputation does not.

    Patches that are left out do not count.

    Behind each tower's forward pass comes twice as much for the gradients of activations and
    weights (PaLM, Chowdhery et al. 2022, appendix B). Nothing comes behind a tower of which nothing
    is trained, half of it where only low-rank factors are, and its share where the last blocks of a
    transformer are. The decoder counts where captions are predicted, the matching head for right
    and for wrong pairs; what the image tower and its heads make of crops and hidden patches counts,
    and once, without gradients, what their average makes of the image.

    Args:
        config: of the run.
        num_tokens: of a text in a batch of `data.text_buckets`; the context length by default.
    """
    most = config.data.max_patches if config.data.image_mode == "naflex" else None
    image = image_forward_flops(config.model, most, training=True)
    text = text_forward_flops(config.model, num_tokens)
    decoder = config.model.decoder
    unread = not (config.loss.contrastive_weight or config.distill.teacher)
    if unread and decoder is not None and decoder.kind == "cappa":
        text = 0  # nobody asks for its embeddings
    total = image * (1 + _backward(config, "image")) + text * (1 + _backward(config, "text"))
    if config.loss.caption_weight:
        captions = decoder_forward_flops(config.model, most, num_tokens)
        # What is frozen in a decoder still hands gradients on to the towers.
        total += captions * (1 + max(_backward(config, "decoder"), 1.0))
    if config.loss.matching_weight:  # of right pairs, of wrong texts, of wrong images
        total += 3 * (1 + 2) * matching_forward_flops(config.model, most, num_tokens)
    if config.self_distill.is_on:
        total += _self_distill_flops(config)
    return round(total)


def _self_distill_flops(config: TrainConfig) -> float:
    found, image, model = config.self_distill, config.model.image, config.model
    assert isinstance(image, ViTConfig)
    heads = {"crops": model.embed_dim, "patches": image.width}
    head = {name: _head_flops(config, width) for name, width in heads.items()}
    learnt, total = 1 + _backward(config, "image"), image_forward_flops(model)
    if found.crop_weight:
        small = dataclasses.replace(image, image_size=found.crop_size)
        crop = image_forward_flops(dataclasses.replace(model, image=small))
        total += found.crops * (learnt * crop + 3 * head["crops"]) + head["crops"]
    if found.patch_weight:
        hidden = round(found.masked_share * image.num_patches)
        total += learnt * image_forward_flops(model) + hidden * (3 + 1) * head["patches"]
    return total


def _head_flops(config: TrainConfig, width: int) -> int:
    heads = config.model.self_distill
    assert heads is not None
    widths = [width, *[heads.hidden] * (heads.depth - 1), heads.bottleneck, heads.prototypes]
    return sum(2 * one * other for one, other in itertools.pairwise(widths))


def run_flops(config: TrainConfig) -> int:
    """Returns the FLOPs of a whole run over all its stages; texts have the whole length."""
    return sum(
        training_flops(part.config)
        * part.config.data.global_batch_size
        * (part.stop_step - part.first_step)
        for part in config.parts
    )


def _backward(config: TrainConfig, tower: str) -> float:
    factors = jax.eval_shape(lambda: init_lora(config.model, config.optim.lora, 0))
    shapes = param_shapes(config.model) | {name: leaf.shape for name, leaf in factors.items()}
    on = [name for name, is_on in trained_in_run(config, shapes).items() if is_on]
    if not any(name.startswith(f"{tower}/") for name in on):
        return 1.0 if any(name.startswith(f"lora/{tower}/") for name in on) else 0.0
    blocks = getattr(config.optim, f"lock_{tower}", None)  # decoders are not locked
    depth = getattr(getattr(config.model, tower), "depth", None)
    if blocks is None or depth is None or config.optim.freeze:
        return 2.0
    return 2.0 * blocks / depth
