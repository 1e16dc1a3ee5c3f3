"""The scores of a probe, each with its interval."""

import numpy as np
from jaxtyping import Int64

from clipjax.core.statistics import bootstrap_metric
from clipjax.evals.estimate import Estimate
from clipjax.evals.metric import Metric, mean_metric
from clipjax.evals.outcomes.groups import mean_of_groups

Classes = Int64[np.ndarray, " images"]


def probe_metrics(predicted: Classes, labels: Classes) -> dict[str, Metric]:
    """Returns acc1 and mean_per_class_recall as functions of how often each image is counted.

    Args:
        predicted: class that each image is given; -1 for one that did not decode.
        labels: its true class.
    """
    hits = predicted == labels
    _, counts = np.unique(labels, return_counts=True)
    return {
        "acc1": mean_metric(hits.astype(np.float64), chance=float(counts.max() / len(labels))),
        "mean_per_class_recall": mean_of_groups(hits, labels, chance=1 / len(counts)),
    }


def probe_scores(
    predicted: Classes, labels: Classes, *, resamples: int = 2000
) -> dict[str, Estimate]:
    """Returns acc1 and mean_per_class_recall with their bootstrap intervals over the images.

    Args:
        predicted: class that each image is given; -1 for one that did not decode.
        labels: its true class.
        resamples: behind each interval.
    """
    out = {}
    for name, metric in probe_metrics(predicted, labels).items():
        low, high = bootstrap_metric(metric.cells, metric.of_counts, resamples=resamples)
        out[name] = Estimate(
            value=metric.value, low=low, high=high, chance=metric.chance, samples=metric.samples
        )
    return out
