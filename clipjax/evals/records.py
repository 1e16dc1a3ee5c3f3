"""The files of an evaluation: one record a task, written when it is done, and one of all."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.config import UserError
from clipjax.config.benchmarks import Benchmark
from clipjax.core.files import replaced
from clipjax.evals.estimate import Estimate
from clipjax.evals.outcomes.outcome import Outcome
from clipjax.evals.suites import aggregates

RESULTS = "results.json"
TASKS = "tasks"
PICTURES = ".pictures.json"
FORMAT = 1


def file_name(task: str) -> str:
    """Returns the name of a task without separators.

    >>> file_name("vtab/dtd")
    'vtab-dtd'
    """
    return task.replace("/", "-")


def identity(**parts: Any) -> str:
    """Returns a hash of what a score depends on: equal for the same work.

    Args:
        **parts: plain values: of the model, the data, the prompts, the protocol.
    """
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_task(
    folder: Path,
    record: Mapping[str, Any],
    outcome: Outcome,
    keys: Sequence[str],
    pictures: Mapping[int, str],
) -> dict[str, Any]:
    """Writes the files of a task and returns its record as it is kept.

    The record is written last, so that one that is there is whole.

    Args:
        folder: of the evaluation.
        record: plain values.
        outcome: arrays, without pickles.
        keys: of the items.
        pictures: data addresses of small pictures that the report shows, by item.
    """
    tasks = folder / TASKS
    tasks.mkdir(parents=True, exist_ok=True)
    stem = file_name(record["task"])
    with replaced(tasks / f"{stem}.npz") as file:
        np.savez_compressed(file, keys=np.array(list(keys), dtype=np.str_), **outcome.arrays)  # type: ignore[arg-type]
    _write_json(tasks / f"{stem}{PICTURES}", {str(item): uri for item, uri in pictures.items()})
    kept = {**record, "format": FORMAT}
    _write_json(tasks / f"{stem}.json", kept)
    return kept


def read_record(folder: Path, task: str) -> dict[str, Any] | None:
    """Returns the record of a task that is done; None where there is none that can be read."""
    try:
        found = json.loads((folder / TASKS / f"{file_name(task)}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def read_outcome(folder: Path, record: Mapping[str, Any]) -> tuple[Outcome, list[str]]:
    """Returns what a model did on each sample of a task, and the keys of the samples.

    Raises:
        UserError: if the file is missing or damaged.
    """
    path = folder / TASKS / f"{file_name(record['task'])}.npz"
    try:
        with open(path, "rb") as file:  # NumPy would leave a damaged one open
            arrays = _arrays(np.load(file, allow_pickle=False))
        keys = [str(key) for key in arrays.pop("keys")]
    except Exception as error:  # zip, zlib and NumPy's parser of headers all have their own
        raise UserError(
            f"{path}: cannot be read ({error}). Evaluate the task again: take its .json away."
        ) from error
    return Outcome(kind=record["kind"], arrays=arrays, options=record["options"]), keys


def _arrays(file: Any) -> dict[str, np.ndarray]:
    if isinstance(file, np.ndarray):
        raise ValueError("it holds a single array without a name")
    return {name: file[name] for name in file.files}


def scores_of(record: Mapping[str, Any]) -> dict[str, Estimate]:
    """Returns the scores of a record by metric."""
    return {name: Estimate(**fields) for name, fields in record["metrics"].items()}


def main_scores(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    """Returns the main score of every task that has one."""
    return {
        name: scores_of(record)[record["main_metric"]]
        for name, record in records.items()
        if record["main_metric"]
    }


def write_results(
    folder: Path,
    model: Mapping[str, Any],
    suite: str,
    protocol: str,
    benchmarks: Sequence[Benchmark],
    records: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """Writes and returns what is known of all tasks.

    Args:
        folder: of the evaluation.
        model: plain values: name, step, parameters.
        suite: name of the list.
        protocol: of the scores.
        benchmarks: of the suite.
        records: of the tasks that are done, by name.
        failed: why the others are not.
    """
    means = aggregates(benchmarks, main_scores(records))
    results = {
        "format": FORMAT,
        "model": dict(model),
        "suite": suite,
        "protocol": protocol,
        "aggregates": {title: vars(mean) for title, mean in means.items()},
        "tasks": dict(records),
        "failed": dict(failed),
    }
    _write_json(folder / RESULTS, results)
    return results


def read_results(folder: Path) -> dict[str, Any]:
    """Returns the results of an evaluation.

    Raises:
        UserError: if the folder holds none.
    """
    path = folder / RESULTS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: no evaluation: {RESULTS} cannot be read ({error}). Expected the --out of "
            "clipjax evaluate."
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path}: of another version; expected format {FORMAT}. Evaluate again.")
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    # In ASCII: a name of a file may hold what no UTF-8 text can.
    text = json.dumps(content, indent=1, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        file.write((text + os.linesep).encode())
