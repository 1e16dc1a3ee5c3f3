"""Results as the row of a table that others keep: `docs/openclip_results.csv` of open_clip."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.config.benchmarks import BENCHMARKS
from clipjax.core.files import replaced

AVERAGE = "Average perf. on 38 datasets"
_FIRST = "imagenet1k"


def openclip_row(results: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Returns the columns and what stands in them, all text.

    The columns of open_clip come first, in its order, then one for every other task, by its title,
    or by its name where that title is taken. A score is the metric that the column
    stands for elsewhere, with 4 decimals; it is empty where that was not measured. The average is
    over DataComp's 38 tasks and empty unless all are there. `pretrained` is the step of a run.

    Args:
        results: of `records.write_results`. Of the model `name`, `step`, `parameters` and `flops`
            (of one pair forward) are used where they are there.

    >>> scores = {"metrics": {"acc1": {"value": 0.98765}}, "main_metric": "acc1", "title": "MNIST"}
    >>> columns, row = openclip_row({"model": {"name": "mine"}, "tasks": {"mnist": scores}})
    >>> columns[:6], row["name"], row["MNIST"], row["Food-101"]
    (['name', 'pretrained', 'params (M)', 'FLOPs (B)', 'Average perf. on 38 datasets', \
'ImageNet 1k'], 'mine', '0.9877', '')
    """
    model, tasks = results["model"], results["tasks"]
    known = sorted(
        (one for one in BENCHMARKS.values() if "datacomp" in one.tags),
        key=lambda one: one.name != _FIRST,
    )
    scores = [_score(tasks.get(one.name), one.main_metric) for one in known]
    values = [score for score in scores if score is not None]
    average = sum(values) / len(known) if len(values) == len(known) else None
    step = model.get("step")
    row = {
        "name": str(model.get("name", "")),
        "pretrained": "" if step is None else f"step {step}",
        "params (M)": _in_units(model.get("parameters"), 1e6),
        "FLOPs (B)": _in_units(model.get("flops"), 1e9),
        AVERAGE: _four(average),
    }
    row |= {one.title: _four(score) for one, score in zip(known, scores, strict=True)}
    counted = {one.name for one in known}
    for name, record in tasks.items():
        if name not in counted and record["main_metric"]:
            title = record["title"] if record["title"] not in row else name
            while title in row:
                title += "'"
            row[title] = _four(_score(record, record["main_metric"]))
    return list(row), row


def write_csv(path: Path, results: Mapping[str, Any]) -> None:
    """Writes the row below its columns, as `openclip_row` has them.

    Args:
        path: of the file.
        results: of `records.write_results`.
    """
    columns, row = openclip_row(results)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    with replaced(path) as file:
        file.write(text.getvalue().encode("utf-8", "replace"))


def _score(record: Mapping[str, Any] | None, metric: str) -> float | None:
    if record is None or metric not in record["metrics"]:
        return None
    return float(record["metrics"][metric]["value"])


def _four(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def _in_units(count: int | float | None, unit: float) -> str:
    return "" if count is None else f"{count / unit:.2f}"
