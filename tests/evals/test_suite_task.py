"""Tasks of every kind with hand-made embeddings, and what their records say."""

import dataclasses
import json
import re

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.config.benchmarks import Benchmark
from clipjax.data.decode import BadSampleError
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.dataset import Dataset, truth_of
from clipjax.evals.open_suite import open_benchmark
from clipjax.evals.prompts import Prompts
from clipjax.evals.suite_task import SuiteTask, _distinct_texts
from clipjax.evals.suites import benchmark_of

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (40, 60, 220),
    "yellow": (240, 220, 40),
    "purple": (150, 50, 180),
    "white": (240, 240, 240),
    "black": (15, 15, 15),
    "orange": (240, 140, 20),
}


class Colours:
    """Looks at the mean colour of a picture and the first colour that a text names."""

    def images(self, images, rows=None):
        out = []
        pixels = np.zeros((32, 32, 3), np.uint8)
        for index in range(len(images)):
            try:
                images.fill(index, pixels)
            except BadSampleError:
                out.append(np.zeros(3))
                continue
            away = np.abs(pixels.astype(float) - 120).sum(axis=-1)
            out.append(pixels.reshape(-1, 3)[away.reshape(-1) >= np.quantile(away, 0.9)].mean(0))
        return self.unit(np.array(out))

    def texts(self, texts):
        return self.unit(
            np.array(
                [
                    next((np.array(c) for n, c in COLOURS.items() if n in text), np.full(3, 120))
                    for text in texts
                ]
            )
        )

    def unit(self, rows):
        rows = np.where(rows.any(axis=1, keepdims=True), rows - 120 + 1e-3, 0)
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows / np.where(norm == 0, 1, norm)).astype(np.float32)


def task_of(name, root, **fields):
    benchmark = benchmark_of(name)
    dataset = open_benchmark(benchmark, str(root), EvaluationTransform())
    return SuiteTask(benchmark=benchmark, dataset=dataset, resamples=50, **fields)


@pytest.mark.parametrize(
    ("name", "metric", "least"),
    [
        ("folder:colours", "acc1", 0.9),
        ("folder:tags", "mean_average_precision", 0.5),
        ("folder:pairs", "text_retrieval_recall@5", 0.5),
        ("wilds/fmow", "acc_worst_region", 0.0),
        ("flickr30k", "mean_recall@1", 0.1),
        ("winoground", "acc", 0.0),
        ("sugar_crepe/add_att", "text_acc", 0.0),
        ("winogavil", "jaccard_score_5", 0.0),
        ("quick/digits", "acc1", 0.0),
        ("quick/emoji_captions", "mean_recall@1", 0.0),
    ],
)
def test_every_kind_is_scored(benchmark_root, name, metric, least):
    task = task_of(name, benchmark_root)
    found = task.evaluate(Colours())
    assert found.scores[metric].value >= least
    assert found.record["samples"] == len(task.dataset.keys)
    assert found.record["bad_samples"] == 0
    json.dumps(found.record, allow_nan=False)
    for score in found.scores.values():
        assert 0 <= score.low <= score.high <= 1
    if found.record["main_metric"]:
        assert found.record["main_metric"] in found.scores
    assert task.run(Colours()) == found.scores


def test_the_record_says_what_the_scores_rest_on(benchmark_root):
    record = task_of("folder:colours", benchmark_root).evaluate(Colours()).record
    assert record["prompts_from"] == "classnames.txt and zeroshot_classification_templates.txt"
    assert re.fullmatch("[0-9a-f]{64}", record["prompts_sha256"])
    assert record["class_names"] == list(COLOURS)
    assert record["calibration"]["ece"] >= 0
    assert record["geometry"]["alignment"] >= 0
    assert task_of("wilds/fmow", benchmark_root).evaluate(Colours()).record["notes"] == [
        "16 samples, where the published test split has 22,108.",
        "8 class names, where the published list has 62.",
    ]


def audio(kinds, labels, **fields):
    """A data set whose items are waveforms: nothing but the encode function knows."""

    class Waves:
        def __len__(self):
            return len(labels)

        def fill(self, index, out):
            out[...] = np.sin(np.arange(len(out)) * (1 + labels[index]) / 3)

    fields = {"keys": [f"{i}.wav" for i in range(len(labels))], **fields}
    return Dataset(
        name="esc50",
        kind="classification",
        items=Waves(),
        prompts=Prompts(class_names=kinds, templates=["a sound of {c}"], source="here"),
        truth=truth_of(label=np.array(labels)),
        **fields,
    )


class Listener:
    def images(self, items, rows=None):
        wave = np.zeros(64)
        out = []
        for index in range(len(items)):
            items.fill(index, wave)
            out.append(wave.copy())
        return self.unit(np.array(out))

    def texts(self, texts):
        number = {"dog": 0, "rain": 1, "siren": 2}
        of = [next(n for word, n in number.items() if word in text) for text in texts]
        return self.unit(np.array([np.sin(np.arange(64) * (1 + n) / 3) for n in of]))

    def unit(self, rows):
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        return (rows / np.where(norm == 0, 1, norm)).astype(np.float32)


def test_whatever_the_encode_function_takes_is_classified():
    """Sounds need no code of their own."""
    task = SuiteTask(
        benchmark=Benchmark(name="esc50", title="ESC-50"),
        dataset=audio(["dog", "rain", "siren"], [0, 1, 2, 2, 1, 0]),
        resamples=20,
    )
    assert task.evaluate(Listener()).scores["acc1"].value == 1.0


def test_an_empty_split_and_one_of_which_nothing_decodes():
    benchmark = Benchmark(name="esc50", title="ESC-50")
    empty = SuiteTask(benchmark=benchmark, dataset=audio(["dog"], []))
    with pytest.raises(UserError, match="the split is empty"):
        empty.evaluate(Listener())

    class Deaf(Listener):
        def images(self, items, rows=None):
            return np.zeros((len(items), 64), np.float32)

    broken = SuiteTask(benchmark=benchmark, dataset=audio(["dog", "rain"], [0, 1]))
    with pytest.raises(UserError, match="none of 2 items decodes"):
        broken.evaluate(Deaf())


def test_what_does_not_decode_counts_as_wrong():
    labels = [0, 1, 2, 0]

    class Half(Listener):
        def images(self, items, rows=None):
            rows = super().images(items)
            rows[[1, 3]] = 0
            return rows

    task = SuiteTask(
        benchmark=Benchmark(name="esc50", title="ESC-50"),
        dataset=audio(["dog", "rain", "siren"], labels),
        resamples=20,
    )
    found = task.evaluate(Half())
    assert found.scores["acc1"].value == 0.5
    assert found.record["bad_samples"] == 2
    assert found.record["bad_examples"][0].startswith("1.wav: ")


@pytest.mark.parametrize(
    ("protocol", "name", "items_low", "texts_low"),
    [
        ("clip-benchmark", "folder:colours", False, False),
        ("datacomp-v1", "folder:colours", False, True),
        ("clip-benchmark-amp", "folder:colours", True, True),
        ("clip-benchmark-amp", "folder:pairs", True, True),
        ("clip-benchmark", "folder:pairs", False, False),
        ("datacomp-v1", "folder:pairs", True, True),
        ("datacomp-v1", "winogavil", True, True),
        ("datacomp-v1", "folder:tags", False, True),
    ],
)
def test_what_a_protocol_has_in_16_bits(benchmark_root, protocol, name, items_low, texts_low):
    calls = []

    class Told(Colours):
        def __init__(self, low):
            self.low = low

        def images(self, images, rows=None):
            calls.append(("items", self.low))
            return super().images(images, rows)

        def texts(self, texts):
            calls.append(("texts", self.low))
            return super().texts(texts)

    task = task_of(name, benchmark_root, protocol=protocol)
    task.evaluate(Told(False), reduced=Told(True))
    assert sorted(calls) == [("items", items_low), ("texts", texts_low)]


def test_faces_are_asked_four_questions():
    lines = {
        "race": ["black", "white"],
        "gender": ["man", "woman"],
        "age": ["young", "old"],
        "toxic": [f"t{i}" for i in range(20)],
    }
    names = [f"{objective}:{text}" for objective, texts in lines.items() for text in texts]
    rng = np.random.default_rng(0)
    groups = {f"group/{field}": rng.integers(0, 2, 12) for field in ("age", "gender", "race")}
    groups["group/race_binary"] = (groups["group/race"] != 1).astype(int)
    data = dataclasses.replace(
        audio(["x"], [0] * 12),
        kind="attributes",
        prompts=Prompts(
            class_names=names, templates=[f"{objective}:a {{c}}" for objective in lines], source="f"
        ),
        truth=truth_of(**groups),
    )

    class Faces(Listener):
        def images(self, items, rows=None):
            return self.unit(rng.normal(size=(len(items), 8)))

        def texts(self, texts):
            return self.unit(rng.normal(size=(len(texts), 8)))

    task = SuiteTask(benchmark=benchmark_of("fairness/fairface"), dataset=data, resamples=20)
    found = task.evaluate(Faces())
    assert {"acc_race_avg", "acc_gender_avg", "acc_age_avg"} <= set(found.scores)
    assert found.record["main_metric"] == ""


def test_equal_captions_have_equal_embeddings():
    """What a tower gives depends on the batch in its last bits: each text is embedded once."""
    asked = []

    class Counting(Colours):
        def texts(self, texts):
            asked.extend(texts)
            return super().texts(texts)

    texts = ["red", "blue", "red"]
    found = _distinct_texts(Counting(), texts)
    assert asked == ["red", "blue"]
    np.testing.assert_array_equal(found, Colours().texts(texts))
