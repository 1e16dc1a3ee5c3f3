"""What the neurons of a layer do to embeddings through later heads, in a few texts each."""

import dataclasses

import numpy as np
from jaxtyping import Float

from clipjax.data.images import Images
from clipjax.inference.load import Model
from clipjax.interpret.facet_pictures import picture_batches
from clipjax.interpret.moments import Moments
from clipjax.interpret.second_order import NeuronEffects, SecondOrder
from clipjax.interpret.sparse_texts import SparseTexts, sparse_texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronTexts:
    """The neurons of a layer.

    Attributes:
        effects: of the neurons.
        texts: a sum of texts near to the direction of each.
        images: that were looked at.
    """

    effects: NeuronEffects
    texts: SparseTexts
    images: int


def neuron_texts(
    model: Model,
    images: Images,
    path: str,
    texts: Float[np.ndarray, "texts embed"],
    *,
    count: int = 8,
    batch_size: int = 32,
) -> NeuronTexts:
    """Returns direction, size and texts of each neuron; what is kept does not grow with the images.

    Args:
        model: whose image tower is a Vision Transformer.
        images: to look at.
        path: of the layer, such as "image/blocks/8/mlp_act".
        texts: embeddings by the model, of unit length.
        count: of texts of a neuron.
        batch_size: images at once.

    Raises:
        UserError: if the tower or the layer has no such effects, or there are too few texts.
    """
    found, moments = SecondOrder(model.config, model.params, path), Moments()
    side = model.config.image.image_size
    for batch, valid in picture_batches(
        images, side, batch_size=batch_size, progress="reading neurons"
    ):
        moments.update(found.coefficients(batch)[:valid])
    effects = found.effects(moments)
    return NeuronTexts(
        effects=effects,
        texts=sparse_texts(effects.direction, texts, count=count),
        images=moments.rows,
    )
