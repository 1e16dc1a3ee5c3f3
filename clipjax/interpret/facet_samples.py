"""The samples of a facet as a model takes them, and the mean over the views of each stimulus."""

import numpy as np
from jaxtyping import Float

from clipjax.config import DualEncoderConfig
from clipjax.data.tokenizers import Tokenizer
from clipjax.inference.load import Model
from clipjax.interpret.facets import Facet, Tower


def sample_spec(
    config: DualEncoderConfig, tower: Tower, length: int | None = None
) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and type of a sample: a picture, uint8, or ids of tokens, int32.

    Args:
        config: of the model.
        tower: that takes it.
        length: that texts are cut to; the model's context by default.
    """
    if tower == "text":
        return (config.text.context_length if length is None else length,), np.dtype(np.int32)
    side = config.image.image_size
    return (side, side, 3), np.dtype(np.uint8)


class FacetSamples:
    """Writes samples of a facet as a model takes them; threads may share an instance.

    Args:
        facet: of either tower.
        tokenizer: of the model.
    """

    def __init__(self, facet: Facet, tokenizer: Tokenizer):
        self._facet, self._tokenizer = facet, tokenizer

    def __len__(self) -> int:
        return self._facet.rows.samples

    def fill(self, index: int, out: np.ndarray) -> None:
        """Writes a picture, or the ids of a text, cut to the length of `out`.

        Args:
            index: of the sample; a negative one is an empty sample.
            out: see `sample_spec`.

        Raises:
            UserError: if it does not decode.
        """
        if index < 0:
            out[...] = 0
        elif self._facet.rows.tower == "image":
            self._facet.fill(index, out)
        else:
            out[...] = self._tokenizer(self._facet.text(index))[: len(out)]


def mean_of_views(
    values: Float[np.ndarray, "samples units"], facet: Facet
) -> Float[np.ndarray, "rows units"]:
    """Returns the mean over the views of each stimulus, float64; 0 of one without a view."""
    count = len(facet.rows.stimuli)
    total = np.zeros((count, values.shape[1]))
    np.add.at(total, facet.owner, values)
    return total / np.maximum(np.bincount(facet.owner, minlength=count), 1)[:, None]


def facet_embeds(model: Model, facet: Facet) -> Float[np.ndarray, "rows embed"]:
    """Returns the mean of the embeddings, of unit length, of each stimulus's views, float64.

    Args:
        model: a trained one.
        facet: pictures or texts.
    """
    encode = model.encoder.bind(model.params)
    if facet.rows.tower == "image":
        shown = FacetSamples(facet, model.tokenizer)
        found = encode.images(shown, progress=f"embedding {facet.rows.name}")
    else:
        found = encode.texts([facet.text(sample) for sample in range(facet.rows.samples)])
    return mean_of_views(found, facet)
