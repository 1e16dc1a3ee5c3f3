"""An evaluation that was kept, checked as far as a comparison needs it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.config import UsageError, UserError
from clipjax.evals.outcomes import Outcome
from clipjax.evals.records import RESULTS, read_outcome, read_results

_NEEDED = ("task", "kind", "main_metric", "data_sha256", "metrics", "options")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one model.

    Attributes:
        path: the folder.
        model: what was evaluated.
        tasks: of every task its record.
        failed: of every task that has no record, why.
    """

    path: Path
    model: Any
    tasks: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, str]

    def outcome(self, task: str) -> tuple[Outcome, Sequence[str]]:
        """Returns what the model did on each sample of a task, and the keys of the samples.

        Raises:
            UserError: if the file with it is missing or damaged.
        """
        return read_outcome(self.path, self.tasks[task])


def read_evaluation(folder: str | Path) -> Evaluation:
    """Returns the evaluation in `folder`.

    Raises:
        UserError: if there is none, or its file of results is damaged.
    """
    results = read_results(Path(folder))
    path, tasks = Path(folder) / RESULTS, results.get("tasks")
    if not isinstance(tasks, dict):
        raise UserError(f"{path}: has no tasks. Expected the --out of clipjax evaluate.")
    for name, record in tasks.items():
        lacks = [n for n in _NEEDED if not isinstance(record, dict) or n not in record]
        if lacks:
            raise UserError(f"{path}: task {name!r} has no {lacks[0]}. Evaluate it again.")
    return Evaluation(
        path=Path(folder),
        model=results.get("model"),
        tasks=tasks,
        failed=results.get("failed") or {},
    )


def check_same_model(folder: Path, identity: str) -> None:
    """Raises UsageError if a folder holds the evaluation of another model.

    Args:
        folder: that is written into; it may hold nothing yet.
        identity: of the model.
    """
    if not (folder / RESULTS).is_file():
        return
    model = read_evaluation(folder).model or {}
    if model.get("identity") != identity:
        raise UsageError(
            f"--out={folder}: holds the evaluation of another model or step ({model.get('spec')}, "
            f"step {model.get('step')}). Name another folder, or replace it with --again."
        )
