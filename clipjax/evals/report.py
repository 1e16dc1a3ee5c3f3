"""Results for people and for programs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax.evals.estimate import Estimate

Results = Mapping[str, Mapping[str, Estimate]]


def to_json(results: Results) -> dict[str, Any]:
    """Returns nested plain dicts: task, metric, then the fields of `Estimate`."""
    return {
        task: {metric: dataclasses.asdict(e) for metric, e in scores.items()}
        for task, scores in results.items()
    }


def table(results: Results) -> str:
    """Returns an aligned table with chance and interval beside every score.

    >>> print(table({"pets": {"top1": Estimate(value=.5, low=.4, high=.6, chance=.1, samples=90)}}))
    task  metric   score  95 % interval  chance  samples
    pets  top1    0.5000  0.4000-0.6000  0.1000       90
    """
    rows = [
        (
            task,
            metric,
            f"{e.value:.4f}",
            f"{e.low:.4f}-{e.high:.4f}",
            f"{e.chance:.4f}",
            f"{e.samples:,}",
        )
        for task, scores in results.items()
        for metric, e in scores.items()
    ]
    head = ("task", "metric", "score", "95 % interval", "chance", "samples")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)
