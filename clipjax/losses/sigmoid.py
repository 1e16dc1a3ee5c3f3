"""Pairwise sigmoid loss, Zhai et al. 2023, https://arxiv.org/abs/2303.15343."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from clipjax.core.mesh import BATCH_AXES, batch_devices
from clipjax.losses.softmax import Embeds, Groups, Scalar


def sigmoid_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    bias: Scalar,
    groups: Groups | None = None,
) -> Scalar:
    """Every image against every text, in one [batch, batch] matrix: the readable reference.

    Args:
        image_embeds: unit length, float32.
        text_embeds: unit length, float32; row i is the caption of image i.
        scale: multiplies the cosine similarity.
        bias: is added after it; about -log(batch) at the start keeps the first loss small.
        groups: rows of one group are positives of each other; None if only row i is that of row i.

    Returns:
        The sum over all pairs, divided by the batch size (as in the paper, not by its square).
    """
    logits = scale * image_embeds @ text_embeds.T + bias
    same = jnp.eye(logits.shape[0]) if groups is None else groups[:, None] == groups[None, :]
    return -jax.nn.log_sigmoid(jnp.where(same, logits, -logits)).sum() / logits.shape[0]


def ring_sigmoid_loss(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    bias: Scalar,
    groups: Groups | None = None,
    *,
    mesh: Mesh,
) -> Scalar:
    """Equals `sigmoid_loss`, but no device ever holds more than one [local, local] block.

    Images stay; texts travel around the ring of devices. The blocks of logits are recomputed in
    the backward pass, so the memory for them is (batch / devices)^2 per device; what travelled is
    kept for each hop (batch x embed in all). The bytes moved are those of one all-gather of the
    texts, once forward and once backward.
    """
    devices = batch_devices(mesh)
    to_next = [(source, (source + 1) % devices) for source in range(devices)]
    rows, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    if groups is None:
        groups = jnp.arange(image_embeds.shape[0], dtype=jnp.int32)

    def local_loss(
        images: jax.Array, texts: jax.Array, scale: jax.Array, bias: jax.Array, groups: jax.Array
    ) -> jax.Array:
        @jax.checkpoint
        def block_loss(texts: jax.Array, text_groups: jax.Array) -> jax.Array:
            logits = scale * images @ texts.T + bias
            same = groups[:, None] == text_groups[None, :]
            return -jax.nn.log_sigmoid(jnp.where(same, logits, -logits)).sum()

        def visit(
            travelling: tuple[jax.Array, jax.Array], _: None
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            loss = block_loss(*travelling)
            return jax.lax.ppermute(travelling, BATCH_AXES, to_next), loss

        _, blocks = jax.lax.scan(visit, (texts, groups), None, length=devices)
        return jax.lax.psum(blocks.sum(), BATCH_AXES)

    total = jax.shard_map(
        local_loss, mesh=mesh, in_specs=(rows, rows, whole, whole, rows), out_specs=whole
    )(image_embeds, text_embeds, scale, bias, groups)
    return total / image_embeds.shape[0]
