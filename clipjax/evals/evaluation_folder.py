"""An evaluation as it was kept: its figures, and what a model did on each sample."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.config import UserError
from clipjax.evals.outcomes import Outcome

_NEEDED = ("kind", "main_metric", "data_sha256", "metrics")
_MADE_BY = "a folder that `clipjax evaluate --out` wrote"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one model.

    Attributes:
        path: the folder.
        model: what was evaluated.
        tasks: of every task its record.
        failed: of every task that has no record, why.
        aggregates: records of means over tasks.
    """

    path: Path
    model: Any
    tasks: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, str]
    aggregates: Mapping[str, Any]

    def outcome(self, task: str) -> tuple[Outcome, np.ndarray]:
        """Returns what the model did on each sample of a task, and the keys of the samples.

        Raises:
            UserError: if the file with it is missing or damaged.
        """
        path = self.path / "tasks" / f"{task.replace('/', '-')}.npz"
        try:
            with open(path, "rb") as file:  # NumPy would leave a damaged one open
                arrays = _arrays(np.load(file, allow_pickle=False))
            keys = arrays.pop("keys")
        except FileNotFoundError as error:
            raise UserError(
                f"{path}: missing; it holds the samples of task {task!r}. Evaluate it again."
            ) from error
        except Exception as error:  # zip, zlib and NumPy's parser of headers all have their own
            raise UserError(
                f"{path}: cannot be read ({error}). Evaluate task {task!r} again."
            ) from error
        record = self.tasks[task]
        options = record.get("options", {})
        return Outcome(kind=record["kind"], arrays=arrays, options=options), keys


def read_evaluation(folder: str | Path) -> Evaluation:
    """Returns the evaluation in `folder`.

    Raises:
        UserError: if there is none, or its file of results is damaged.
    """
    path = Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        found = "has no results.json" if Path(folder).is_dir() else "no such folder"
        raise UserError(f"{folder}: {found}; expected {_MADE_BY}.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected {_MADE_BY}.") from error
    tasks = results.get("tasks") if isinstance(results, dict) else None
    if not isinstance(tasks, dict):
        raise UserError(f"{path}: has no tasks; expected {_MADE_BY}.")
    for name, record in tasks.items():
        lacks = [n for n in _NEEDED if not isinstance(record, dict) or n not in record]
        if lacks:
            raise UserError(f"{path}: task {name!r} has no {lacks[0]}. Evaluate it again.")
    return Evaluation(
        path=Path(folder),
        model=results.get("model"),
        tasks=tasks,
        failed=results.get("failed") or {},
        aggregates=results.get("aggregates") or {},
    )


def _arrays(file: Any) -> dict[str, np.ndarray]:
    if isinstance(file, np.ndarray):
        raise ValueError("it holds a single array without a name")
    return {name: file[name] for name in file.files}
