"""The samples of a facet in batches of one size, as a compiled program over a mesh takes them."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from clipjax.config import DualEncoderConfig
from clipjax.core.mesh import batch_devices, local_rows, put_rows
from clipjax.data.tokenizers import Tokenizer
from clipjax.interpret.facet_samples import FacetSamples, sample_spec
from clipjax.interpret.facets import Facet


class FacetBatch(NamedTuple):
    """Some samples of a facet.

    Attributes:
        x: pictures, uint8 [batch, side, side, 3], or ids, int32 [batch, tokens]; on the mesh.
        rows: stimulus of each sample; those behind the last sample are copies of the first.
        weight: one over the views of its stimulus; 0 behind the last sample.
    """

    x: jax.Array
    rows: Int[np.ndarray, " batch"]
    weight: Float[np.ndarray, " batch"]


def facet_batches(
    facet: Facet, config: DualEncoderConfig, tokenize: Tokenizer, mesh: Mesh, *, batch_size: int
) -> Iterator[FacetBatch]:
    """Yields all samples of a facet; the last batch is filled up with samples that do not count.

    Args:
        facet: of either tower.
        config: of the model.
        tokenize: text to ids.
        mesh: the batch is split over it.
        batch_size: rounded up to what the mesh divides, and down to what there is.

    Raises:
        UserError: if a sample does not decode.
    """
    total, parts = len(facet.owner), batch_devices(mesh)
    size = -(-min(batch_size, total) // parts) * parts
    mine = local_rows(mesh, size)
    source = FacetSamples(facet, tokenize)
    shape, dtype = sample_spec(config, facet.rows.tower)
    views = np.bincount(facet.owner, minlength=len(facet.rows.stimuli))
    for first in range(0, total, size):
        samples = first + np.arange(size)
        counts = samples < total
        samples = np.where(counts, samples, 0)
        x = np.empty((len(mine), *shape), dtype)
        for sample, row in zip(samples[mine], x, strict=True):
            source.fill(int(sample), row)
        rows = facet.owner[samples]
        yield FacetBatch(put_rows(x, mine, size, mesh), rows, counts / views[rows])
