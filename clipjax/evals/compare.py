"""Whether one of two models is better: task by task on the same images, and over all tasks."""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config import UserError, did_you_mean
from clipjax.config.benchmarks import AGGREGATES, BENCHMARKS
from clipjax.core.paired_comparison import (
    Difference,
    benjamini_hochberg,
    difference_of_draws,
    holm,
    paired_draws,
    paired_permutation,
)
from clipjax.core.statistics import NoiseFloor, noise_floor
from clipjax.evals.evaluation_folder import Evaluation
from clipjax.evals.metric import Metric
from clipjax.evals.outcomes import metrics_of

CORRECTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "holm": holm,
    "bh": benjamini_hochberg,
}
_MAY_DIFFER = {  # of two records, with what it means
    "protocol": "the difference may be one of protocols",
    "prompts_sha256": "the difference may be one of prompts",
    "bad_samples": "those count as wrong",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Two scores on the same images.

    Attributes:
        task: its name, or that of a mean over tasks.
        metric: its name.
        a: score of the first model.
        b: score of the second.
        difference: b - a.
        low: lower end of the 95 % interval of the difference, of this row alone.
        high: upper end.
        p_value: two-sided, of this row alone.
        test: where it is from: "binomial" and "all signs" are exact.
        adjusted_p: corrected for the number of tasks; a mean over tasks has none.
        clusters: images (or groups of them) that were drawn.
        noise: of the seeds of the first model's recipe.
        verdict: "A better", "B better", "within noise" (of the seeds) or "not shown".
    """

    task: str
    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    adjusted_p: float | None = None
    clusters: int
    noise: NoiseFloor | None = None
    verdict: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows by task, means over tasks, and what a reader must know of them.

    Attributes:
        rows: of tasks.
        aggregates: of means over tasks.
        left_out: by task, why it could not be compared.
        warnings: what else could explain a difference.
    """

    rows: Sequence[Row]
    aggregates: Sequence[Row]
    left_out: Mapping[str, str]
    warnings: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How two models are compared.

    Attributes:
        metric: "main" of each task, "all", or a name.
        alpha: adjusted p values up to this are called a difference.
        correction: "holm" or "bh".
        resamples: draws behind each interval, and signs of a test that is not exact.
        seed: of the draws.
    """

    metric: str = "main"
    alpha: float = 0.05
    correction: str = "holm"
    resamples: int = 10_000
    seed: int = 0


def compare(
    a: Evaluation,
    b: Evaluation,
    settings: Settings,
    seeds: Sequence[Evaluation] = (),
    *,
    say: Callable[[str], None] | None = None,
) -> Comparison:
    """Returns how the second model differs from the first.

    Scores that are sums over images are tested by flipping signs (exactly where they are hits and
    misses), others by the bootstrap; intervals are all from the bootstrap of images, the same
    images for both models. Tasks are drawn independently for a mean over them.

    Args:
        a: the first model.
        b: the second.
        settings: what is computed.
        seeds: evaluations of further runs of the first model's recipe. With them a difference must
            also exceed the noise of seeds, which they and the first model give; since that is one
            of them, one in 23 to 31 equal recipes is beyond it instead of one in 20.
        say: is told which task is being compared.

    Raises:
        UserError: if nothing can be compared, or a file is missing or damaged.
    """
    found = _Found(a=a, b=b, settings=settings, seeds=seeds)
    for task in dict.fromkeys([*a.tasks, *b.tasks]):
        reason = found.why_not(task)
        if reason:
            found.left_out[task] = reason
        else:
            if say:
                say(f"comparing {task} ...")
            found.add(task)
    if not found.rows:
        raise _nothing(found)
    adjusted = CORRECTIONS[settings.correction](np.array([r.p_value for r in found.rows]))
    rows = [
        _judged(dataclasses.replace(row, adjusted_p=float(p)), settings.alpha)
        for row, p in zip(found.rows, adjusted, strict=True)
    ]
    drawn = sum(row.test in ("bootstrap", "random signs") for row in rows)
    least = len(rows) * 2 / (1 + settings.resamples)
    if drawn and least > settings.alpha:
        found.warnings.append(
            f"with {settings.resamples:,} resamples no adjusted p value of {len(rows)} may come "
            f"below {least:.2g}; use more"
        )
    return Comparison(
        rows=rows,
        aggregates=[_judged(row, settings.alpha) for row in _aggregates(found)],
        left_out=found.left_out,
        warnings=list(dict.fromkeys(found.warnings)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """What is known of two evaluations so far."""

    a: Evaluation
    b: Evaluation
    settings: Settings
    seeds: Sequence[Evaluation]
    rows: list[Row] = dataclasses.field(default_factory=list)
    draws: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # of what is averaged
    averaged: dict[str, Row] = dataclasses.field(default_factory=dict)
    seed_scores: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def why_not(self, task: str) -> str:
        """Returns why a task cannot be compared by what its records say; empty if it can."""
        for side, evaluation in (("A", self.a), ("B", self.b)):
            if task in evaluation.failed:
                return f"failed in {side}: {evaluation.failed[task]}"
            if task not in evaluation.tasks:
                return f"not in {side}"
        record, other = self.a.tasks[task], self.b.tasks[task]
        if record["data_sha256"] != other["data_sha256"]:
            return "the data differ (data_sha256)"
        for field in ("kind", "main_metric"):
            if record[field] != other[field]:
                return f"{field} is {record[field]!r} in A and {other[field]!r} in B"
        if self.settings.metric == "main" and not record["main_metric"]:
            return "it has no main metric"
        return ""

    def add(self, task: str) -> None:
        """Adds the rows of a task, or the reason why there are none."""
        outcome_a, keys_a = self.a.outcome(task)
        outcome_b, keys_b = self.b.outcome(task)
        if list(keys_a) != list(keys_b):
            self.left_out[task] = _how_keys_differ(keys_a, keys_b)
            return
        of_a = _scores(self.a, task, outcome_a)
        of_b = _scores(self.b, task, outcome_b)
        main = self.a.tasks[task]["main_metric"]
        wanted = {"main": [main], "all": list(dict.fromkeys([*of_a, *of_b]))}
        named = self.settings.metric
        for name in wanted.get(named, [named]):
            if name not in of_a or name not in of_b:
                sides = " and ".join(s for s, of in (("A", of_a), ("B", of_b)) if name not in of)
                self.left_out[_title(task, name, main)] = f"no metric {name!r} in {sides}"
                continue
            try:
                self._add_metric(task, name, of_a[name], of_b[name], name == main)
            except ValueError as error:
                self.left_out[_title(task, name, main)] = f"{error}"
        record, other = self.a.tasks[task], self.b.tasks[task]
        for field, meaning in _MAY_DIFFER.items():
            if record.get(field) != other.get(field):
                self.warnings.append(
                    f"{task}: {field} is {_short(record.get(field))} in A and "
                    f"{_short(other.get(field))} in B; {meaning}"
                )

    def _add_metric(self, task: str, name: str, a: Metric, b: Metric, main: bool) -> None:
        settings = self.settings
        if len(a.cells) != len(b.cells):
            raise ValueError(f"{len(a.cells):,} clusters in A and {len(b.cells):,} in B")
        seed = (settings.seed, zlib.crc32(task.encode()))
        draws = paired_draws(
            a.cells, a.of_counts, b.cells, b.of_counts, resamples=settings.resamples, seed=seed
        )
        value_a, value_b = a.value, b.value
        found = difference_of_draws(value_b - value_a, draws)
        p_value, test = _tested(a, b, found, settings.resamples, seed)
        scores = self._scores_of_seeds(task, name, value_a)
        row = Row(
            task=task,
            metric=name,
            a=value_a,
            b=value_b,
            difference=found.value,
            low=found.low,
            high=found.high,
            p_value=p_value,
            test=test,
            clusters=len(a.cells),
            noise=noise_floor(np.array(scores)) if len(scores) > 1 else None,
        )
        self.rows.append(row)
        if main or settings.metric == name:
            self.draws[task], self.averaged[task], self.seed_scores[task] = draws, row, scores
        for evaluation, value in ((self.a, value_a), (self.b, value_b)):
            kept = float(evaluation.tasks[task]["metrics"].get(name, {}).get("value", value))
            if not abs(kept - value) <= 1e-6:
                self.warnings.append(
                    f"{task}: {evaluation.path} says {name} {kept:.4f}, its samples say "
                    f"{value:.4f}; evaluate it again"
                )

    def _scores_of_seeds(self, task: str, name: str, own: float) -> list[float]:
        scores = [own]
        for run in self.seeds:
            record = run.tasks.get(task)
            if record is None or record["data_sha256"] != self.a.tasks[task]["data_sha256"]:
                self.warnings.append(f"{task}: {run.path} has no scores on these data")
                continue
            score = float(record["metrics"].get(name, {}).get("value", "nan"))
            if np.isfinite(score):
                scores.append(score)
            else:
                self.warnings.append(f"{task}: {run.path} has no {name}")
        return scores


def _aggregates(found: _Found) -> list[Row]:
    """Returns means over all rows, and over groups of tasks that are there as a whole."""
    if len(found.averaged) < 2:
        return []
    over = {f"mean of {len(found.averaged)} tasks": list(found.averaged)}
    for tag, title in AGGREGATES.items():
        tasks = [one.name for one in BENCHMARKS.values() if tag in one.tags]
        if len(tasks) > 1 and all(task in found.averaged for task in tasks):
            over[title] = tasks
    return [_mean(name, tasks, found) for name, tasks in over.items()]


def _mean(name: str, tasks: Sequence[str], found: _Found) -> Row:
    rows = [found.averaged[task] for task in tasks]
    # Draws without a score were dropped: since tasks are independent, any draws may be added.
    draws = [found.draws[task] for task in tasks]
    least = min(map(len, draws))
    difference = difference_of_draws(
        float(np.mean([row.difference for row in rows])),
        np.mean([of_task[:least] for of_task in draws], axis=0),
    )
    seeds = [found.seed_scores[task] for task in tasks]
    whole = 1 + len(found.seeds) if found.seeds else 0
    scores = np.array(seeds) if all(len(of_task) == whole for of_task in seeds) else None
    return Row(
        task=name,
        metric="main" if found.settings.metric == "all" else found.settings.metric,
        a=float(np.mean([row.a for row in rows])),
        b=float(np.mean([row.b for row in rows])),
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        p_value=difference.p_value,
        test="bootstrap",
        clusters=sum(row.clusters for row in rows),
        noise=None if scores is None else noise_floor(scores.mean(axis=0)),
    )


def _tested(
    a: Metric, b: Metric, found: Difference, resamples: int, seed: tuple[int, int]
) -> tuple[float, str]:
    """Returns the p value and the name of the test: by signs where that is valid."""
    if a.sums is not None and b.sums is not None and _equal(a.sizes, b.sizes):
        flips = paired_permutation(b.sums - a.sums, resamples=resamples, seed=seed)
        return flips.p_value, flips.method
    return found.p_value, "bootstrap"


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)


def _judged(row: Row, alpha: float) -> Row:
    p_value = row.p_value if row.adjusted_p is None else row.adjusted_p
    if p_value > alpha:
        verdict = "not shown"
    elif row.noise and abs(row.difference) <= row.noise.smallest_difference:
        verdict = "within noise"
    else:
        verdict = "B better" if row.difference > 0 else "A better"
    return dataclasses.replace(row, verdict=verdict)


def _scores(evaluation: Evaluation, task: str, outcome: Any) -> dict[str, Metric]:
    try:
        return metrics_of(outcome)
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(
            f"{evaluation.path}: the samples of task {task!r} give no scores ({error}). It is of "
            "another version or damaged: evaluate it again."
        ) from error


def _how_keys_differ(a: Sequence[str], b: Sequence[str]) -> str:
    only_a, only_b = sorted(set(a) - set(b)), sorted(set(b) - set(a))
    if not only_a and not only_b:
        return "the same samples stand in another order"
    example = (only_a or only_b)[0]
    return f"{len(only_a):,} samples only in A, {len(only_b):,} only in B, {example!r} for one"


def _nothing(found: _Found) -> UserError:
    a, b, named = found.a, found.b, found.settings.metric
    both = [task for task in a.tasks if task in b.tasks]
    if not both:
        return UserError(f"{b.path}: has no task of {a.path}. Evaluate both on one suite.")
    known = dict.fromkeys(m for task in both for m in a.tasks[task]["metrics"])
    if named not in ("main", "all") and named not in known:
        return UserError(
            f"--metric={named}: no task has it.{did_you_mean(named, known)} There are: "
            f"{', '.join(known)}."
        )
    reasons = "; ".join(f"{task}: {reason}" for task, reason in found.left_out.items())
    return UserError(f"{a.path} and {b.path} have no scores that can be compared. {reasons}.")


def _title(task: str, metric: str, main: str) -> str:
    return task if metric == main else f"{task} {metric}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 24 else f"{text[:12]}…{text[-1]}"
