"""Image-text matching: wrong partners that are hard, and a yes or no for each pair.

Source: Li et al. 2021, "ALBEF", section 3.2, https://arxiv.org/abs/2107.07651; Li et al. 2022,
"BLIP", section 3.2, https://arxiv.org/abs/2201.12086.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int32, Key

from clipjax.core.mesh import BATCH_AXES, batch_devices
from clipjax.losses.online import own
from clipjax.losses.options import Embeds, Groups, Scalar
from clipjax.losses.streaming import Walk

Partners = Int32[Array, " batch"]
Logits = Float[Array, " batch"]

_ROWS, _WHOLE = PartitionSpec(BATCH_AXES), PartitionSpec()


def hard_partners(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    groups: Groups,
    key: Key[Array, ""],
) -> tuple[Partners, Partners]:
    """Draws a wrong text for each image and a wrong image for each text: the readable reference.

    A text of another group is drawn with a probability proportional to the exponential of its
    logit, as the largest of the logits with Gumbel noise. The noise of a pair is a function of
    the key and of the places of both in the batch.

    Args:
        image_embeds: unit length; they get no gradient.
        text_embeds: unit length; they get no gradient.
        scale: multiplies the cosine similarity.
        groups: pairs of one group are no wrong partners of each other.
        key: of this step.

    Returns:
        The place of a text for each image and of an image for each text; -1 where all pairs are of
        one group.

    Source: the module's; Gumbel-max: Maddison et al. 2014, https://arxiv.org/abs/1411.0030.
    """
    numbers = jnp.arange(len(groups))
    scores = _scores(image_embeds, text_embeds, scale, groups, groups, numbers, numbers, key)
    found = (
        jnp.where(both.max(axis=axis) > -jnp.inf, both.argmax(axis=axis), -1).astype(jnp.int32)
        for axis, both in ((1, scores[0]), (0, scores[1]))
    )
    of_images, of_texts = found
    return of_images, of_texts


def streaming_hard_partners(
    image_embeds: Embeds,
    text_embeds: Embeds,
    scale: Scalar,
    groups: Groups,
    key: Key[Array, ""],
    *,
    walk: Walk,
) -> tuple[Partners, Partners]:
    """Equals `hard_partners`: the best so far is kept, so that one walk and little memory do.

    Args:
        image_embeds: see `hard_partners`.
        text_embeds: see `hard_partners`.
        scale: see `hard_partners`.
        groups: see `hard_partners`.
        key: see `hard_partners`.
        walk: how each device sees all texts.
    """

    def local(images, texts, scale, groups, key):
        first = jax.lax.axis_index(BATCH_AXES) * len(images)
        numbers = (first + jnp.arange(len(images))).astype(jnp.int32)

        def visit(of_images, block, of_texts):
            texts, text_groups, places = block
            by_image, by_text = _scores(
                images, texts, scale, groups, text_groups, numbers, places, key
            )
            return (
                _better(of_images, by_image, places),
                _better(of_texts, by_text.T, numbers),
            )

        def join(of_texts):
            score, place = of_texts
            best = jax.lax.pmax(score, BATCH_AXES)
            far = jnp.iinfo(place.dtype).max
            winner = jax.lax.pmin(jnp.where(score == best, place, far), BATCH_AXES)
            return own(best, len(images)), own(winner, len(images))

        nothing = jnp.full(len(images), -jnp.inf, images.dtype), jnp.full_like(numbers, -1)
        (_, of_images), (_, of_texts) = walk(
            visit, nothing, (texts, groups, numbers), nothing, join=join
        )
        return of_images, of_texts

    return jax.shard_map(
        local,
        mesh=walk.mesh,
        in_specs=(_ROWS, _ROWS, _WHOLE, _ROWS, _WHOLE),
        out_specs=(_ROWS, _ROWS),
        check_vma=False,
    )(jax.lax.stop_gradient(image_embeds), jax.lax.stop_gradient(text_embeds), scale, groups, key)


def taken_rows(x: jax.Array, places: Partners, walk: Walk | None) -> jax.Array:
    """Returns x[places]; without a walk as that, else the rows come by in a ring.

    A device then holds no more than its own rows and those that pass. XLA would gather all rows
    on every device; of image tokens those are gigabytes.

    Args:
        x: an array whose first axis is the batch.
        places: rows of the whole batch; -1 for none, where any may be given.
        walk: over the devices of the batch.
    """
    if walk is None:
        return x[jnp.maximum(places, 0)]
    devices = batch_devices(walk.mesh)
    to_next = [(source, (source + 1) % devices) for source in range(devices)]

    def local(x: jax.Array, places: jax.Array) -> jax.Array:
        rows, here = len(x), jax.lax.axis_index(BATCH_AXES)

        def hop(state: tuple[jax.Array, jax.Array], number: jax.Array) -> tuple[Any, None]:
            found, passing = state
            mine = places // rows == (here - number) % devices
            mine = mine.reshape(-1, *[1] * (x.ndim - 1))
            found = jnp.where(mine, passing[places % rows], found)
            return (found, jax.lax.ppermute(passing, BATCH_AXES, to_next)), None

        (found, _), _ = jax.lax.scan(hop, (jnp.zeros_like(x), x), jnp.arange(devices))
        return found

    return jax.shard_map(
        local, mesh=walk.mesh, in_specs=(_ROWS, _ROWS), out_specs=_ROWS, check_vma=False
    )(x, places)


def matching_loss(
    right: Logits, wrong_texts: Logits, wrong_images: Logits, drawn: tuple[Partners, Partners]
) -> Scalar:
    """Mean binary cross-entropy over right pairs and wrong ones; in nats a pair, float32.

    It is linear in the number of logits: the reference is its own fast version.

    Args:
        right: logit that an image and its own text belong together.
        wrong_texts: of each image and the text that was drawn for it.
        wrong_images: of each text and the image that was drawn for it.
        drawn: of `hard_partners`; where nothing could be drawn, the pair does not count.
    """
    counted = jnp.stack([place >= 0 for place in drawn])
    wrong = jax.nn.softplus(jnp.stack([wrong_texts, wrong_images]).astype(jnp.float32))
    total = jax.nn.softplus(-right.astype(jnp.float32)).sum() + (wrong * counted).sum()
    return total / (len(right) + counted.sum())


def _scores(
    images: Any,
    texts: Any,
    scale: Any,
    groups: Any,
    text_groups: Any,
    rows: Any,
    columns: Any,
    key: Any,
) -> tuple[jax.Array, jax.Array]:
    """Returns logits with noise [images, texts], once for the images and once for the texts."""
    logits = jax.lax.stop_gradient(scale * images @ texts.T)
    logits = jnp.where(groups[:, None] == text_groups[None, :], -jnp.inf, logits)
    of_rows = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
    one = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = jax.vmap(one, in_axes=(0, None))(of_rows, columns)
    draw = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, (2,), logits.dtype)))
    noise = draw(keys)
    return logits + noise[..., 0], logits + noise[..., 1]


def _better(so_far: Any, scores: jax.Array, places: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns score and place of the best of each row, of those so far and of a block."""
    best, place = so_far
    found = scores.max(axis=1)
    place = jnp.where(found > best, places[scores.argmax(axis=1)], place)
    return jnp.maximum(best, found), place
