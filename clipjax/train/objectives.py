"""What a step minimises: the weighted sum of the objectives of a run, each tower run once."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from clipjax.config import CappaDecoderConfig, TrainConfig, UsageError
from clipjax.losses import Loss, feature_loss, token_losses
from clipjax.models import (
    Captions,
    DualEncoder,
    Patches,
    model_state_of,
    parallel_captions,
    with_params,
)
from clipjax.models.layers.batch_norm import freeze_batch_norms
from clipjax.train.matching import matching_rows, matching_term
from clipjax.train.micro_batches import encoded, mean_over_parts
from clipjax.train.self_distill import AVERAGED, Means, drawn_views, self_distillation
from clipjax.train.state import TrainState, trained_of
from clipjax.train.teacher import Teacher

Terms = dict[str, Float[Array, ""]]
"""The objectives by name, not weighted."""

Rows = dict[str, Array]
"""Arrays whose first axis is the batch."""

_PARALLEL_STREAM, _VIEWS_STREAM, _PARTNERS_STREAM = 1, 2, 3


def check_objectives(config: TrainConfig) -> None:
    """Raises UsageError if the model has a decoder or heads that no objective of the run trains.

    The config itself lets it pass: it also describes models that are only read and written.
    """
    if config.model.matching is not None and not config.loss.matching_weight:
        raise UsageError(
            "config.loss.matching_weight=0 trains nothing of model.matching. Set it (ALBEF, BLIP: "
            "1), or leave it out (model.matching=None)."
        )
    if config.model.self_distill is not None and not any(
        part.config.self_distill.is_on for part in config.parts
    ):
        raise UsageError(
            "config.self_distill: crop_weight=0 and patch_weight=0 train nothing of "
            "model.self_distill. Set one of them (SigLIP 2: 1 and 0.25), for the run or for a "
            "stage, or leave the heads out (model.self_distill=None)."
        )
    frozen = config.optim.lora.rank > 0 or "decoder/*" in config.optim.freeze
    if config.model.decoder is not None and not config.loss.caption_weight and not frozen:
        raise UsageError(
            "config.loss.caption_weight=0 trains nothing of model.decoder, which weight decay "
            "alone would then move. Set config.loss.caption_weight (CoCa: 2, CapPa, LocCa: 1), "
            "leave the decoder out (model.decoder=None), or freeze it (optim.freeze=('decoder/*',))"
            "."
        )


def loss_of_pairs(
    config: TrainConfig,
    loss: Loss,
    params: Mapping[str, Array],
    state: TrainState,
    pairs: tuple[Array | Patches, Int32[Array, "batch tokens"]],
    groups: Int32[Array, " batch"] | None,
    key: Key[Array, ""],
    teacher: Teacher | None = None,
) -> tuple[Float[Array, ""], tuple[Mapping[str, Array], Terms, Means]]:
    """Returns the loss of a batch, the model state that it leaves, and the objectives by name.

    Last comes what the model's own average has seen, for the next one.

    Args:
        config: of the run.
        loss: contrastive, of all embeddings of the batch, or of a part of it.
        params: of the model.
        state: with the model state, which parameters there are, and the model's own average.
        pairs: images and tokens.
        groups: of the pairs.
        key: of what the towers draw.
        teacher: that the run learns from.
    """
    which, arrays = trained_of(config, state.params), {**params, **state.model_state}
    batch = *pairs, _drawn(config, pairs[1], key)

    def encode(batch: Any, key: Key[Array, ""]) -> tuple[Rows, Mapping[str, Array]]:
        model = with_params(config.model, arrays)
        freeze_batch_norms(model, which)
        rows = _outputs(config, model, batch, key)
        if teacher is not None:
            rows |= _teacher_outputs(teacher, batch)
        if config.self_distill.is_on:
            images, _, views = batch
            rows |= self_distillation(config, arrays, state.self_teacher, images, views)
        return rows, model_state_of(model)

    def total(
        rows: Rows, groups: Any, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Terms, Means]]:
        terms = _terms(config, loss, teacher, params, rows, groups)
        if config.loss.matching_weight:
            drawn_by = jax.random.fold_in(key, _PARTNERS_STREAM)
            terms["matching"] = matching_term(config, arrays, rows, groups, drawn_by)
        weights = _weights(config)
        parts = [weights[name] * term for name, term in terms.items()]
        seen = {name: row.mean(axis=0) for name, row in rows.items() if name in AVERAGED}
        return sum(parts[1:], start=parts[0]), (terms, seen)

    parts = config.micro_batches
    if parts == 1:
        rows, model_state = encode(batch, key)
        value, found = total(rows, groups, key)
        return value, (model_state, *found)
    if config.loss.over == "batch":
        rows = encoded(lambda *part: encode(*part)[0], batch, parts, key)
        value, found = total(rows, groups, key)
        return value, (state.model_state, *found)

    def of_part(part: Any, key: Key[Array, ""]) -> tuple[Float[Array, ""], tuple[Terms, Means]]:
        batch, groups = part
        return total(encode(batch, key)[0], groups, key)

    value, found = mean_over_parts(of_part, (batch, groups), parts, key)
    return value, (state.model_state, *found)


def _weights(config: TrainConfig) -> dict[str, float]:
    return {
        "contrastive": config.loss.contrastive_weight,
        "caption": config.loss.caption_weight,
        "matching": config.loss.matching_weight,
        "distillation": config.distill.logit_weight,
        "feature": config.distill.feature_weight,
        "crop": config.self_distill.crop_weight,
        "patch": config.self_distill.patch_weight,
    }


def _terms(
    config: TrainConfig,
    loss: Loss,
    teacher: Teacher | None,
    params: Mapping[str, Array],
    rows: Rows,
    groups: Any,
) -> Terms:
    scale, weights, terms = jnp.exp(params["log_logit_scale"]), _weights(config), {}
    if weights["contrastive"]:
        bias = params.get("logit_bias")
        terms["contrastive"] = loss(rows["images"], rows["texts"], scale, bias, groups)
    if weights["caption"]:
        tokens = jnp.maximum(rows["caption_tokens"].sum(), 1)
        terms["caption"] = rows["caption_losses"].sum() / tokens
    if teacher is not None:
        terms |= _taught(teacher, weights, rows, scale)
    for name in ("crop", "patch"):
        if weights[name]:
            terms[name] = rows[f"{name}_losses"].mean()
    return terms


def _drawn(config: TrainConfig, tokens: Array, key: Key[Array, ""]) -> Rows:
    """Returns what is drawn for the whole batch, so that its parts do not change it."""
    decoder, rows, drawn = config.model.decoder, len(tokens), {}
    if config.loss.caption_weight and isinstance(decoder, CappaDecoderConfig):
        share = decoder.parallel_share
        if share:
            stream = jax.random.fold_in(key, _PARALLEL_STREAM)
            drawn["parallel"] = parallel_captions(stream, rows, share)
    if config.self_distill.is_on:
        drawn |= drawn_views(config, rows, jax.random.fold_in(key, _VIEWS_STREAM))
    return drawn


def _outputs(config: TrainConfig, model: DualEncoder, batch: Any, key: Key[Array, ""]) -> Rows:
    images, tokens, drawn = batch
    rows = {}
    if config.loss.caption_weight:
        parallel = drawn.get("parallel")
        image, text, read, captions = model.captioning_inputs(images, tokens, key, parallel)
        rows = _caption_rows(config, captions)
    elif config.loss.matching_weight:
        image, text, read = model.matching_inputs(images, tokens, key)
    else:
        return {"images": model.encode_image(images, key), "texts": model.encode_text(tokens)}
    if config.loss.matching_weight:
        rows |= matching_rows(read, tokens)
    return {"images": image, "texts": text, **rows}


def _caption_rows(config: TrainConfig, captions: Captions) -> Rows:
    hidden, kernel, bias, targets, counted = captions
    losses = token_losses(hidden, kernel, bias, targets, block=config.loss.caption_block)
    return {
        # Sums of a caption: what a part of the batch hands on, instead of its hidden states.
        "caption_losses": jnp.where(counted, losses, 0.0).sum(axis=1),
        "caption_tokens": counted.sum(axis=1),
    }


def _teacher_outputs(teacher: Teacher, batch: Any) -> Rows:
    model = with_params(teacher.config, teacher.params)
    images, tokens = batch[:2]
    found = {
        "teacher_images": model.encode_image(images),
        "teacher_texts": model.encode_text(tokens),
    }
    return jax.lax.stop_gradient(found)


def _taught(teacher: Teacher, weights: Mapping[str, float], rows: Rows, scale: Array) -> Terms:
    images, texts = rows["images"], rows["texts"]
    theirs = rows["teacher_images"], rows["teacher_texts"]
    terms: Terms = {}
    if weights["distillation"]:
        their_scale = jnp.exp(teacher.params["log_logit_scale"])
        terms["distillation"] = teacher.loss(images, texts, scale, *theirs, their_scale)
    if weights["feature"]:
        terms["feature"] = (feature_loss(images, theirs[0]) + feature_loss(texts, theirs[1])) / 2
    return terms
