"""The texts that span what each attention head of an image tower says, over many images."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from clipjax.config import UserError
from clipjax.data.images import Images
from clipjax.inference.load import Model
from clipjax.interpret.facet_pictures import picture_batches
from clipjax.interpret.head_effects import HeadReads
from clipjax.interpret.moments import Moments
from clipjax.interpret.text_span import TextSpan, text_span
from clipjax.interpret.vit_parts import image_tower


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadSpan:
    """One head and its texts.

    Attributes:
        layer: of the tower.
        head: of the layer.
        size: root mean square length of its direct effect on the embedding of unit length.
        variance: of the effect, all directions together.
        span: texts, in the order in which they were found.
    """

    layer: int
    head: int
    size: float
    variance: float
    span: TextSpan


def last_layers(model: Model, count: int) -> list[int]:
    """Returns the numbers of the last layers of the image tower, ascending.

    Raises:
        UserError: if the tower has no heads that can be told apart.
    """
    depth = image_tower(model.config).depth
    return list(range(max(0, depth - count), depth))


def head_spans(
    model: Model,
    images: Images,
    texts: Float[np.ndarray, "texts embed"],
    *,
    layers: Sequence[int],
    picks: int = 10,
    rank: int = 80,
    batch_size: int = 32,
) -> list[HeadSpan]:
    """Returns the texts of each head of some layers; what is kept does not grow with the images.

    Args:
        model: whose image tower is a Vision Transformer.
        images: to look at.
        texts: embeddings by the model, of unit length.
        layers: of the tower.
        picks: texts of each head.
        rank: see `text_span`.
        batch_size: images at once.

    Raises:
        UserError: if the tower is none whose embedding is a sum over heads, there is no such layer,
            fewer texts than picks, or a head says the same of all images.
    """
    image = image_tower(model.config)
    side, depth = image.image_size, image.depth
    for layer in layers:
        if not 0 <= layer < depth:
            raise UserError(f"layer {layer}: the image tower has layers 0 to {depth - 1}.")
    reads, moments = HeadReads(model.config, model.params, layers), Moments()
    for batch, valid in picture_batches(
        images, side, batch_size=batch_size, progress="reading heads"
    ):
        moments.update(reads(batch)[:valid])
    spans = []
    for place, layer in enumerate(reads.layers):
        for head, to_embed in enumerate(reads.maps[place].astype(np.float64)):
            mean = moments.mean[place, head] @ to_embed
            covariance = to_embed.T @ moments.covariance[place, head] @ to_embed
            try:
                span = text_span(mean, covariance, texts, picks=picks, rank=rank)
            except UserError as error:
                raise UserError(f"layer {layer}, head {head}: {error}") from error
            variance = float(np.trace(covariance))
            size = float(np.sqrt(variance + mean @ mean))
            spans.append(HeadSpan(layer=layer, head=head, size=size, variance=variance, span=span))
    return spans
