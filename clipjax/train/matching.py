"""Right pairs against hard wrong ones (`loss.matching_weight`)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from clipjax.config import TrainConfig
from clipjax.losses import (
    Walk,
    hard_partners,
    make_walk,
    matching_loss,
    streaming_hard_partners,
    taken_rows,
)
from clipjax.models import Read, with_params


def matching_rows(read: Read, tokens: Int32[Array, "batch tokens"]) -> dict[str, Array]:
    """Returns what `matching_term` takes of each pair, beside the embeddings."""
    rows = {"image_tokens": read.tokens, "tokens": tokens}
    return rows if read.mask is None else {**rows, "image_mask": read.mask}


def matching_term(
    config: TrainConfig,
    params: Mapping[str, Array],
    rows: Mapping[str, Array],
    groups: Int32[Array, " batch"] | None,
    key: Key[Array, ""],
) -> Float[Array, ""]:
    """Returns the loss of the right pairs of a batch, and of one wrong text and image for each.

    Args:
        config: of the stage.
        params: of the model.
        rows: embeddings, and those of `matching_rows`.
        groups: pairs of one group are no wrong partners of each other.
        key: of what is drawn.
    """
    mesh = jax.sharding.get_abstract_mesh()
    walk = None
    if not mesh.empty:  # all logits of a batch with their noise would be four of its matrices
        walk = make_walk(config.loss, mesh) or Walk("chunked", mesh, config.loss.block)
    images, texts = (jax.lax.stop_gradient(rows[name]) for name in ("images", "texts"))
    scale = jnp.exp(jax.lax.stop_gradient(params["log_logit_scale"]))
    groups = jnp.arange(len(images), dtype=jnp.int32) if groups is None else groups
    if walk is None:
        drawn = hard_partners(images, texts, scale, groups, key)
    else:
        drawn = streaming_hard_partners(images, texts, scale, groups, key, walk=walk)
    head = with_params(config.model, params).matching
    seen, mask, tokens = rows["image_tokens"], rows.get("image_mask"), rows["tokens"]
    wrong_mask = None if mask is None else taken_rows(mask, drawn[1], walk)
    return matching_loss(
        head(tokens, seen, mask),
        head(taken_rows(tokens, drawn[0], walk), seen, mask),
        head(tokens, taken_rows(seen, drawn[1], walk), wrong_mask),
        drawn,
    )
