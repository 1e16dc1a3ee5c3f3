"""Which checkpoints of a run scored best, so that they outlive newer ones."""

import json
from pathlib import Path

from clipjax.config.errors import UserError
from clipjax.core.files import replaced

FILE = "best.json"


class BestCheckpoints:
    """Scores of the checkpoints of a run, in a small file beside them.

    Args:
        directory: of the checkpoints.
        metric: what the scores are of; those of another are forgotten.
    """

    def __init__(self, directory: Path, metric: str):
        self._path, self.metric = directory / FILE, metric
        found = read_best(directory)
        self._scores = found[1] if found is not None and found[0] == metric else {}

    def add(self, step: int, score: float) -> None:
        """Remembers the score of a checkpoint; NaN is the worst."""
        self._scores[step] = score if score == score else float("-inf")
        # JSON has no infinity.
        scores = {str(s): v if v > float("-inf") else None for s, v in self._scores.items()}
        content = {"metric": self.metric, "scores": scores}
        with replaced(self._path) as file:
            file.write(json.dumps(content, indent=1).encode())

    def best(self, count: int) -> list[int]:
        """Returns the steps with the highest scores, best first; of equal ones the latest."""
        return sorted(self._scores, key=lambda step: (self._scores[step], step), reverse=True)[
            :count
        ]


def read_best(directory: Path) -> tuple[str, dict[int, float]] | None:
    """Returns the metric and the scores by step; None where no run has kept any."""
    try:
        found = json.loads((directory / FILE).read_text(encoding="utf-8"))
        scores = {
            int(step): float("-inf") if score is None else float(score)
            for step, score in found["scores"].items()
        }
        return str(found["metric"]), scores
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def best_step(workdir: Path) -> int:
    """Returns the step of the best checkpoint that is still there.

    Raises:
        UserError: if the run kept none by score.
    """
    directory = workdir / "checkpoints"
    found = read_best(directory)
    there = {int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit()}
    scores = {step: score for step, score in (found[1] if found else {}).items() if step in there}
    if not scores:
        raise UserError(
            f"{workdir}: no checkpoint has a score; the run had no checkpoint.best_metric. Name a "
            "step."
        )
    return max(scores, key=lambda step: (scores[step], step))
