"""One data set, embedded once, judged, and written down."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config import UserError
from clipjax.config.benchmarks import Benchmark
from clipjax.core.rows import Rows
from clipjax.core.statistics import bootstrap_metric
from clipjax.evals.calibration import calibration
from clipjax.evals.dataset import Dataset, Pictures
from clipjax.evals.estimate import Estimate
from clipjax.evals.geometry import geometry
from clipjax.evals.metric import Metric
from clipjax.evals.outcomes import (
    association,
    attributes,
    classification,
    metrics_of,
    multilabel,
    retrieval,
    selection,
)
from clipjax.evals.outcomes.outcome import Outcome
from clipjax.evals.prompts import Prompts
from clipjax.evals.protocol import Encoders
from clipjax.evals.zeroshot import class_embeds

_MOST_EXAMPLES = 20
_PAIRED = ("retrieval", "association", "selection")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """A benchmark whose data were found, ready to score any model.

    Attributes:
        benchmark: which.
        dataset: its data.
        protocol: see `suites.PROTOCOLS`.
        resamples: behind each interval.
    """

    benchmark: Benchmark
    dataset: Dataset
    protocol: str = "clip-benchmark"
    resamples: int = 2000

    def run(self, encode: Encoders) -> dict[str, Estimate]:
        """Returns its scores by metric, as the tasks of a run do."""
        return self.evaluate(encode).scores

    def evaluate(
        self,
        encode: Encoders,
        *,
        reduced: Encoders | None = None,
        rows: Rows | None = None,
        prompt_rows: Rows | None = None,
    ) -> "Evaluated":
        """Returns scores, with what they rest on.

        Args:
            encode: of the model.
            reduced: in 16 bits, for what the protocol has in them; `encode` by default.
            rows: where the embeddings of the items are kept while they are made.
            prompt_rows: the same for those of the distinct prompts.

        Raises:
            UserError: if nothing of the data set can be scored.
        """
        data, started = self.dataset, time.perf_counter()
        if not len(data.items):
            raise UserError(f"{data.name}: the split is empty; expected at least one sample.")
        low = encode if reduced is None or self.protocol == "clip-benchmark" else reduced
        both_low = self.protocol == "clip-benchmark-amp" or data.kind in _PAIRED
        classes = None  # first: a model that reads no text is found out before the pictures
        if data.prompts is None:
            classes = _distinct_texts(low, data.texts)
        elif data.kind != "attributes":
            classes = class_embeds(low, data.prompts, prompt_rows)
        items = (low if both_low else encode).images(data.items, rows)
        embedded = time.perf_counter()
        bad = np.flatnonzero(~items.any(axis=1))
        if len(bad) == len(items):
            raise UserError(
                f"{data.name}: none of {len(items):,} items decodes; the first: "
                f"{self._reason(int(bad[0]))}"
            )
        outcome = self._judge(items, classes, low)
        metrics = metrics_of(outcome)
        scores = {name: self._estimate(metric) for name, metric in metrics.items()}
        record = self._record(outcome, scores, bad, items, classes)
        record["seconds"] = {
            "embed": round(embedded - started, 3),
            "score": round(time.perf_counter() - embedded, 3),
        }
        return Evaluated(
            record=record, outcome=outcome, scores=scores, items=items, texts=classes, bad=bad
        )

    def _judge(self, items: np.ndarray, texts: np.ndarray | None, encode: Encoders) -> Outcome:
        data = self.dataset
        groups = {
            name.removeprefix("group/"): values
            for name, values in data.truth.items()
            if name.startswith("group/")
        }
        if data.kind == "attributes":
            of_objective = {
                objective: class_embeds(encode, prompts)
                for objective, prompts in _objectives(data).items()
            }
            return attributes.judge(items, of_objective, groups)
        assert texts is not None
        if data.kind == "classification":
            return classification.judge(
                items,
                texts,
                data.truth["label"],
                groups=groups,
                group_names={name: of for name, of in data.group_names.items() if of},
                worst=[dataclasses.asdict(one) for one in self.benchmark.worst],
            )
        if data.kind == "multilabel":
            return multilabel.judge(items, texts, data.truth["target"])
        if data.kind == "retrieval":
            return retrieval.judge(items, texts, data.truth["image_of_text"])
        if data.kind == "selection":
            images_each, texts_each = int(data.truth["images_each"]), int(data.truth["texts_each"])
            width = items.shape[1]
            return selection.judge(
                items.reshape(-1, images_each, width), texts.reshape(-1, texts_each, width)
            )
        return association.judge(items, texts, data.truth["instance"], data.truth["right"])

    def _estimate(self, metric: Metric) -> Estimate:
        low, high = bootstrap_metric(metric.cells, metric.of_counts, resamples=self.resamples)
        return Estimate(
            value=metric.value, low=low, high=high, chance=metric.chance, samples=metric.samples
        )

    def _record(
        self,
        outcome: Outcome,
        scores: Mapping[str, Estimate],
        bad: np.ndarray,
        items: np.ndarray,
        texts: np.ndarray | None,
    ) -> dict[str, Any]:
        data = self.dataset
        main = self.benchmark.main_metric
        record: dict[str, Any] = {
            "task": data.name,
            "title": self.benchmark.title,
            "kind": data.kind,
            "main_metric": main if main in scores else _DEFAULT_METRIC.get(data.kind, ""),
            "random_score": self.benchmark.random_score,
            "protocol": self.protocol,
            "prompts_sha256": data.prompts.sha256() if data.prompts else None,
            "prompts_from": data.prompts.source if data.prompts else None,
            "data_sha256": data.sha256(),
            "samples": len(data.keys),
            "bad_samples": len(bad),
            "bad_examples": [
                f"{data.keys[index]}: {self._reason(index)}"
                for index in bad[:_MOST_EXAMPLES].tolist()
            ],
            "notes": [*data.notes, *self._size_notes()],
            "metrics": {name: dataclasses.asdict(one) for name, one in scores.items()},
            "options": dict(outcome.options),
        }
        if data.prompts is not None:
            record["class_names"] = list(data.prompts.class_names)
        if data.kind == "classification":
            arrays = outcome.arrays
            record["calibration"] = calibration(
                arrays["confidence"],
                arrays["predicted"] == arrays["label"],
                arrays["truth_probability"],
            )
        if texts is not None and data.kind in ("classification", "retrieval"):
            record["geometry"] = geometry(items, texts, pairs=_pairs(data))
        return record

    def _size_notes(self) -> list[str]:
        """Returns how the data differ in size from what was published."""
        notes, data = [], self.dataset
        expected, found = self.benchmark.num_samples, len(data.keys)
        if expected not in (None, found) and data.kind not in ("association", "selection"):
            notes.append(f"{found:,} samples, where the published test split has {expected:,}.")
        expected = self.benchmark.num_classes
        if data.prompts is not None and expected not in (None, len(data.prompts.class_names)):
            found = len(data.prompts.class_names)
            notes.append(f"{found:,} class names, where the published list has {expected:,}.")
        return notes

    def _reason(self, index: int) -> str:
        items = self.dataset.items
        found = items.bad.get(index) if isinstance(items, Pictures) else None
        return found or "does not decode (read by another process, or before)"


_DEFAULT_METRIC = {
    "classification": "acc1",
    "multilabel": "mean_average_precision",
    "retrieval": "mean_recall@1",
    "selection": "acc",
    "association": "avg_jaccard_score",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What an evaluation of one task gave.

    Attributes:
        record: plain values for `tasks/NAME.json`.
        outcome: arrays for `tasks/NAME.npz`.
        scores: by metric.
        items: embeddings of the items; rows of zeros where one did not decode.
        texts: embeddings of the classes or texts.
        bad: numbers of the items that did not decode.
    """

    record: dict[str, Any]
    outcome: Outcome
    scores: dict[str, Estimate]
    items: np.ndarray
    texts: np.ndarray | None
    bad: np.ndarray


def _distinct_texts(encode: Encoders, texts: Sequence[str]) -> np.ndarray:
    """Returns the embeddings of texts, of equal texts the same bits: their ties are ties then.

    What a tower gives depends on the batch in its last bits.
    """
    distinct = list(dict.fromkeys(texts))
    place = {text: number for number, text in enumerate(distinct)}
    return encode.texts(distinct)[[place[text] for text in texts]]


def _pairs(data: Dataset) -> np.ndarray:
    """Returns which item and which class or text belong together, int64 [pairs, 2]."""
    if data.kind == "retrieval":
        of_text = data.truth["image_of_text"]
        return np.stack([of_text, np.arange(len(of_text))], axis=1)
    return np.stack([np.arange(len(data.keys)), data.truth["label"]], axis=1)


def _objectives(data: Dataset) -> dict[str, Prompts]:
    """Returns the prompts of each objective of names and templates written "objective:text"."""
    prompts = data.prompts
    assert prompts is not None
    assert not isinstance(prompts.templates, Mapping)
    where = f"{data.name}: {prompts.source}"
    templates = attributes.by_objective(prompts.templates, where)
    return {
        objective: Prompts(class_names=names, templates=templates[objective], source=prompts.source)
        for objective, names in attributes.by_objective(prompts.class_names, where).items()
    }
