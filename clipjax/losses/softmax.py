"""Contrastive softmax loss, Radford et al. 2021, figure 3, https://arxiv.org/abs/2103.00020."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int32

from clipjax.core.mesh import BATCH_AXES, batch_devices

Embeds = Float[Array, "batch embed"]
Scalar = Float[Array, ""]
Groups = Int32[Array, " batch"]


def softmax_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    bias: Scalar | None = None,
    groups: Groups | None = None,
) -> Scalar:
    """Mean of image-to-text and text-to-image cross-entropy: the readable reference.

    Args:
        image_embeds: unit length, float32.
        text_embeds: unit length, float32; row i is the caption of image i.
        scale: multiplies the cosine similarity (1 / temperature).
        bias: added after it; it cancels in the softmax and is taken for symmetry with SigLIP.
        groups: rows of one group are positives of each other, with equal weights (UniCL, Yang et
            al. 2022, https://arxiv.org/abs/2204.03610); None if only row i belongs to row i.

    Returns:
        The loss in nats, averaged over the batch and the two directions.
    """
    logits = scale * image_embeds @ text_embeds.T + (0.0 if bias is None else bias)
    if groups is None:
        targets = jnp.eye(logits.shape[0])
    else:
        same = (groups[:, None] == groups[None, :]).astype(logits.dtype)
        targets = same / same.sum(axis=1, keepdims=True)
    to_text = -(targets * jax.nn.log_softmax(logits, axis=1)).sum() / logits.shape[0]
    to_image = -(targets * jax.nn.log_softmax(logits.T, axis=1)).sum() / logits.shape[0]
    return (to_text + to_image) / 2


def sharded_softmax_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    bias: Scalar | None = None,
    groups: Groups | None = None,
    *,
    mesh: Mesh,
) -> Scalar:
    """Equals `softmax_loss`; every device computes its [local, batch] block of logits once.

    Texts are gathered, images stay. Rows are normalised locally; the normalisers of the columns
    are sums of one [batch] vector over the devices, so that no second block is needed.
    """
    devices = batch_devices(mesh)
    rows, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    if groups is None:
        groups = jnp.arange(image_embeds.shape[0], dtype=jnp.int32)

    def local_loss(
        images: jax.Array, texts: jax.Array, scale: jax.Array, groups: jax.Array
    ) -> jax.Array:
        all_texts = jax.lax.all_gather(texts, BATCH_AXES, tiled=True)
        all_groups = jax.lax.all_gather(groups, BATCH_AXES, tiled=True)
        logits = scale * images @ all_texts.T
        same = (groups[:, None] == all_groups[None, :]).astype(logits.dtype)
        targets = same / same.sum(axis=1, keepdims=True)
        to_text = jax.nn.logsumexp(logits, axis=1) - (targets * logits).sum(axis=1)
        peak = jax.lax.pmax(jax.lax.stop_gradient(logits).max(axis=0), BATCH_AXES)
        columns = jax.lax.psum(jnp.exp(logits - peak).sum(axis=0), BATCH_AXES)
        # Every device holds the same column normalisers, hence its share of their sum.
        normaliser = (jnp.log(columns) + peak).sum() / devices
        # Groups are symmetric: where two rows match, their columns' targets are the rows' targets.
        to_image = normaliser - (targets * logits).sum()
        return jax.lax.psum(to_text.sum() + to_image, BATCH_AXES)

    total = jax.shard_map(
        local_loss, mesh=mesh, in_specs=(rows, rows, whole, rows), out_specs=whole
    )(image_embeds, text_embeds, scale, groups)
    return total / (2 * image_embeds.shape[0]) + (0.0 if bias is None else 0.0 * bias)
