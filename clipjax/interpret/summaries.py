"""What is kept of the activations of each unit, whatever their number: extremes and a histogram."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

Activations = Float[np.ndarray, "rows units"]

BINS = 256
EXEMPLARS = 25


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitSummary:
    """One facet's activations of the units of one path, as sums over its stimuli.

    Attributes:
        rows: stimuli that were seen.
        mean: of the activations.
        deviation: their standard deviation (of all, not of a sample).
        low: the least.
        high: the largest.
        zeros: share of activations that are exactly 0.
        top_rows: stimuli with the largest activations, the largest first; of equal ones the
            smaller row first, so that no order of computation shows. -1 where there are fewer.
        top_values: their activations; NaN where there are fewer.
        bottom_rows: likewise those with the least, the least first.
        bottom_values: their activations.
        edges: between the bins of `counts`, ascending: bin b has edges[b-1] <= value < edges[b].
            A value that is frequent, such as the 0 of a ReLU, has a bin of its own.
        counts: stimuli in each bin.
    """

    rows: int
    mean: Float[np.ndarray, " units"]
    deviation: Float[np.ndarray, " units"]
    low: Float[np.ndarray, " units"]
    high: Float[np.ndarray, " units"]
    zeros: Float[np.ndarray, " units"]
    top_rows: Int[np.ndarray, "units exemplars"]
    top_values: Float[np.ndarray, "units exemplars"]
    bottom_rows: Int[np.ndarray, "units exemplars"]
    bottom_values: Float[np.ndarray, "units exemplars"]
    edges: Float[np.ndarray, "units edges"]
    counts: Int[np.ndarray, "units bins"]


def summarise(
    activations: Activations, *, bins: int = BINS, exemplars: int = EXEMPLARS
) -> UnitSummary:
    """Returns the summary of activations that are all at hand.

    Args:
        activations: of one facet, float32; one row a stimulus.
        bins: of the histogram.
        exemplars: largest and least activations that are kept.
    """
    wide = activations.astype(np.float64)
    edges = quantile_edges(activations, bins)
    counts = np.stack(
        [
            np.bincount(np.searchsorted(edge, column, side="right"), minlength=edges.shape[1] + 1)
            for edge, column in zip(edges, activations.T, strict=True)
        ]
    )
    top_rows, top_values = _extremes(activations, exemplars, sign=-1)
    bottom_rows, bottom_values = _extremes(activations, exemplars, sign=1)
    return UnitSummary(
        rows=len(activations),
        mean=wide.mean(axis=0),
        deviation=wide.std(axis=0),
        low=wide.min(axis=0),
        high=wide.max(axis=0),
        zeros=(activations == 0).mean(axis=0),
        top_rows=top_rows,
        top_values=top_values,
        bottom_rows=bottom_rows,
        bottom_values=bottom_values,
        edges=edges,
        counts=counts,
    )


def quantile_edges(activations: Activations, bins: int) -> Float[np.ndarray, "units edges"]:
    """Returns bins - 1 edges of each unit, float32, such that bins hold about the same number.

    Edges are in pairs, q and the next larger number, so that a value that many activations have
    is alone in its bin: without that, ties of a ReLU would be mixed with what is just above them.

    >>> quantile_edges(np.array([[0.0], [0.0], [0.0], [5.0]], np.float32), 3).round(3).tolist()
    [[0.0, 0.0]]
    """
    ordered = np.sort(activations.astype(np.float32), axis=0)
    pairs = (bins - 1) // 2
    places = (len(ordered) * np.arange(1, pairs + 1)) // (pairs + 1)
    chosen = ordered[np.minimum(places, len(ordered) - 1)].T
    both = np.stack([chosen, np.nextafter(chosen, np.float32(np.inf))], axis=-1)
    return np.sort(both.reshape(len(chosen), -1), axis=1)


def _extremes(
    activations: Activations, count: int, *, sign: int
) -> tuple[Int[np.ndarray, "units exemplars"], Float[np.ndarray, "units exemplars"]]:
    order = np.argsort(sign * activations, axis=0, kind="stable")[:count]
    values = np.take_along_axis(activations, order, axis=0).astype(np.float64)
    missing = ((0, 0), (0, count - len(order)))
    return (
        np.pad(order.T, missing, constant_values=-1),
        np.pad(values.T, missing, constant_values=np.nan),
    )
