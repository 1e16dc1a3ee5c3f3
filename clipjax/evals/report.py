"""Results for people and for programs."""

import dataclasses
from collections.abc import Mapping, Sequence
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
        _row(task, metric, dataclasses.asdict(score))
        for task, scores in results.items()
        for metric, score in scores.items()
    ]
    return _aligned(rows)


def results_table(results: Mapping[str, Any]) -> str:
    """Returns the main score of every task, the means below, and why others were not run.

    Of a task without a main metric the first that is reported.

    Args:
        results: of `records.write_results`.
    """
    rows = [
        _row(record["task"], metric, record["metrics"][metric])
        for record in results["tasks"].values()
        if (metric := headline_metric(record)) is not None
    ]
    means = [_row(title, "mean", mean) for title, mean in results["aggregates"].items()]
    lines = _aligned([*rows, *means]).splitlines()
    if means:
        lines.insert(1 + len(rows), "")
    if results["failed"]:
        lines.append("")
        lines += [
            f"not scored: {name}: {' '.join(reason.removeprefix(f'{name}: ').split())}"
            for name, reason in results["failed"].items()
        ]
    return "\n".join(lines)


def headline_metric(record: Mapping[str, Any]) -> str | None:
    """Returns the main metric of a task, else the first of its metrics; None if it has none.

    >>> headline_metric({"main_metric": "", "metrics": {"acc_race_avg": {}, "acc_race_wg": {}}})
    'acc_race_avg'
    """
    metrics = record["metrics"]
    main = record["main_metric"]
    return main if main in metrics else next(iter(metrics), None)


def _row(task: str, metric: str, fields: Mapping[str, Any]) -> tuple[str, ...]:
    score, low, high, chance = (f"{fields[k]:.4f}" for k in ("value", "low", "high", "chance"))
    return task, metric, score, f"{low}-{high}", chance, f"{fields['samples']:,}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    head = ("task", "metric", "score", "95 % interval", "chance", "samples")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, *rows]:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)
