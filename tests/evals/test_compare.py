import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import UserError
from clipjax.config.benchmarks import BENCHMARKS
from clipjax.core.paired_comparison import benjamini_hochberg, holm, paired_permutation
from clipjax.core.statistics import noise_floor
from clipjax.evals.compare import Settings, compare
from clipjax.evals.evaluation_folder import Evaluation
from clipjax.evals.outcomes import Outcome, metrics_of

QUICK = Settings(resamples=400)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InMemory(Evaluation):
    """An evaluation whose samples are at hand."""

    outcomes: dict

    def outcome(self, task):
        return self.outcomes[task]


def classified(hits, classes=4):
    """What a model did that is right where `hits` is true and else one class off."""
    hits = np.asarray(hits, bool)
    label = np.arange(len(hits)) % classes
    arrays = {
        "label": label,
        "predicted": np.where(hits, label, (label + 1) % classes),
        "in_top5": hits,
        "confidence": np.full(len(hits), 0.5, np.float32),
        "truth_probability": np.full(len(hits), 0.5, np.float32),
    }
    return Outcome(kind="classification", arrays=arrays, options={"num_classes": classes})


def retrieved(found, captions=3):
    """What a model did that finds the image of text i where `found[i]`."""
    found = np.asarray(found, bool)
    images = len(found) // captions
    arrays = {
        "text_rank": np.where(found[::captions], 0, 20),
        "image_rank": np.where(found, 0, 20),
        "image_of_text": np.arange(len(found)) // captions,
    }
    options = {"num_images": images, "num_texts": len(found)}
    return Outcome(kind="retrieval", arrays=arrays, options=options)


def evaluation(name, outcomes, *, keys=None, failed=None, **fields):
    """An evaluation of `outcomes` by task; `fields` go into every record."""
    mains = {"classification": "acc1", "retrieval": "image_retrieval_recall@1"}
    records, kept = {}, {}
    for task, outcome in outcomes.items():
        values = {m: {"value": found.value} for m, found in metrics_of(outcome).items()}
        records[task] = {
            "kind": outcome.kind,
            "main_metric": mains[outcome.kind],
            "data_sha256": f"data of {task}",
            "prompts_sha256": "1" * 64,
            "protocol": "clip-benchmark",
            "bad_samples": 0,
            "metrics": values,
            **fields,
        }
        samples = next(iter(outcome.arrays.values()))
        own = [f"{task}/{i:04}" for i in range(len(samples))] if keys is None else keys
        kept[task] = (outcome, own)
    return InMemory(
        path=Path(name),
        model=name,
        tasks=records,
        failed=failed or {},
        outcomes=kept,
    )


def two_models(seed=0, n=300, better=0.0):
    rng = np.random.default_rng(seed)
    shared, own_a, own_b = rng.random((3, n))
    alike = rng.random(n) < 0.6
    return np.where(alike, shared, own_a) < 0.6, np.where(alike, shared, own_b) < 0.6 + better


def test_a_row_is_what_the_pieces_say():
    hits_a, hits_b = two_models(better=0.1)
    a, b = evaluation("a", {"x": classified(hits_a)}), evaluation("b", {"x": classified(hits_b)})
    found = compare(a, b, Settings(resamples=4000))
    (row,) = found.rows
    assert (row.task, row.metric, row.clusters, row.test) == ("x", "acc1", 300, "binomial")
    assert (row.a, row.b) == (hits_a.mean(), hits_b.mean())
    assert row.difference == row.b - row.a
    differences = 1.0 * hits_b - hits_a
    assert row.p_value == paired_permutation(differences).p_value == row.adjusted_p
    half = 1.96 * differences.std() / np.sqrt(300)
    # The 2.5 % quantile of 4,000 draws: standard error 0.0423 sigma, of which half is 1.96; a step.
    atol = 5 * 0.0423 * half / 1.96 + 1 / 300
    expected = (row.difference - half, row.difference + half)
    assert (row.low, row.high) == pytest.approx(expected, abs=atol)
    assert row.noise is None
    assert found.aggregates == []
    assert (found.left_out, found.warnings) == ({}, [])


def test_swapping_the_models_flips_every_sign():
    tasks = {f"t{i}": two_models(i, better=0.03 * i) for i in range(4)}
    a = evaluation("a", {t: classified(hits[0]) for t, hits in tasks.items()})
    b = evaluation("b", {t: classified(hits[1]) for t, hits in tasks.items()})
    one, other = compare(a, b, QUICK), compare(b, a, QUICK)
    swapped = {"A better": "B better", "B better": "A better"}
    for row, mirrored in zip(one.rows, other.rows, strict=True):
        assert mirrored.difference == -row.difference
        assert mirrored.p_value == row.p_value
        assert mirrored.adjusted_p == row.adjusted_p
        assert mirrored.verdict == swapped.get(row.verdict, row.verdict)
    assert one.aggregates[0].difference == pytest.approx(-other.aggregates[0].difference)
    assert {row.verdict for row in one.rows} == {"not shown", "B better"}


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), st.integers(0, 9))
def test_one_more_task_changes_no_row_and_lowers_no_adjusted_p(seeds, another):
    def found(numbers):
        tasks = {f"t{i}": two_models(i, 40, 0.1) for i in numbers}
        a = evaluation("a", {t: classified(hits[0]) for t, hits in tasks.items()})
        b = evaluation("b", {t: classified(hits[1]) for t, hits in tasks.items()})
        return {row.task: row for row in compare(a, b, Settings(resamples=40)).rows}

    fewer, more = found(seeds), found([*dict.fromkeys([another, *seeds])])
    for task, row in fewer.items():
        assert more[task].adjusted_p >= row.adjusted_p
        again = dataclasses.replace(more[task], adjusted_p=row.adjusted_p, verdict=row.verdict)
        assert again == row


@pytest.mark.parametrize(("name", "adjust"), [("holm", holm), ("bh", benjamini_hochberg)])
def test_p_values_are_corrected_over_all_rows(name, adjust):
    tasks = {f"t{i}": two_models(i, better=0.05) for i in range(5)}
    a = evaluation("a", {t: classified(hits[0]) for t, hits in tasks.items()})
    b = evaluation("b", {t: classified(hits[1]) for t, hits in tasks.items()})
    rows = compare(a, b, dataclasses.replace(QUICK, metric="all", correction=name)).rows
    assert len(rows) == 5 * len(a.tasks["t0"]["metrics"])
    expected = adjust(np.array([row.p_value for row in rows]))
    assert [row.adjusted_p for row in rows] == expected.tolist()
    for row in rows:
        assert (row.verdict == "not shown") == (row.adjusted_p > 0.05)


def test_a_mean_over_tasks_knows_more_than_each():
    tasks = {f"t{i}": two_models(i, 200, 0.06) for i in range(12)}
    a = evaluation("a", {t: classified(hits[0]) for t, hits in tasks.items()})
    b = evaluation("b", {t: classified(hits[1]) for t, hits in tasks.items()})
    found = compare(a, b, Settings(resamples=2000))
    (mean,) = found.aggregates
    assert mean.task == "mean of 12 tasks"
    assert mean.difference == pytest.approx(np.mean([row.difference for row in found.rows]))
    assert (mean.a, mean.b) == pytest.approx(
        (np.mean([r.a for r in found.rows]), np.mean([r.b for r in found.rows]))
    )
    # Of independent tasks variances add: the half width is the root of the sum of squares / 12.
    half = [(1.0 * y - x).std() * 1.96 / np.sqrt(200) for x, y in tasks.values()]
    expected = np.sqrt(np.square(half).sum()) / 12
    assert (mean.high - mean.low) / 2 == pytest.approx(expected, rel=0.12)
    assert mean.adjusted_p is None
    assert mean.verdict == "B better"
    assert mean.clusters == 2400


def test_groups_of_tasks_that_are_there_as_a_whole_have_means_too():
    shift = [one.name for one in BENCHMARKS.values() if "shift" in one.tags]
    vtab = [one.name for one in BENCHMARKS.values() if "vtab" in one.tags]
    assert len(shift) > 2
    tasks = {t: two_models(i, 50) for i, t in enumerate([*shift, *vtab[1:], "own"])}
    a = evaluation("a", {t: classified(hits[0]) for t, hits in tasks.items()})
    b = evaluation("b", {t: classified(hits[1]) for t, hits in tasks.items()})
    found = compare(a, b, QUICK)
    assert [row.task for row in found.aggregates] == [
        f"mean of {len(tasks)} tasks", "ImageNet dist. shifts"
    ]  # fmt: skip
    expected = np.mean([row.difference for row in found.rows if row.task in shift])
    assert found.aggregates[1].difference == pytest.approx(expected)
    assert found.aggregates[1].clusters == 50 * len(shift)


def test_captions_of_an_image_are_drawn_and_flipped_together():
    rng = np.random.default_rng(0)
    images = rng.random(80) < 0.5
    b = np.repeat(images, 3)  # all captions of an image share its fate
    a = np.repeat(images & (rng.random(80) < 0.9), 3)
    found = compare(
        evaluation("a", {"x": retrieved(a)}), evaluation("b", {"x": retrieved(b)}), QUICK
    )
    (row,) = found.rows
    assert (row.clusters, row.test) == (80, "binomial")
    # As many images as differ are flips of a coin, not three times as many.
    lost = int((b & ~a).sum() // 3)
    assert row.p_value == pytest.approx(min(1, 2 * 0.5**lost))


def test_scores_that_are_no_sums_are_tested_by_the_bootstrap():
    hits_a, hits_b = two_models(better=0.2)
    a, b = evaluation("a", {"x": classified(hits_a)}), evaluation("b", {"x": classified(hits_b)})
    rows = compare(a, b, dataclasses.replace(QUICK, metric="mean_per_class_recall")).rows
    assert [(row.metric, row.test, row.verdict) for row in rows] == [
        ("mean_per_class_recall", "bootstrap", "B better")
    ]
    assert rows[0].p_value == 2 / 401
    assert rows[0].low > 0


def test_the_mean_over_tasks_is_of_the_metric_that_is_asked_for():
    tasks = {f"t{i}": two_models(i, better=0.1) for i in range(2)}
    a = evaluation("a", {t: classified(hits[0]) for t, hits in tasks.items()})
    b = evaluation("b", {t: classified(hits[1]) for t, hits in tasks.items()})
    for asked, of in (("F1-macro_all", "F1-macro_all"), ("all", "acc1"), ("main", "acc1")):
        found = compare(a, b, dataclasses.replace(QUICK, metric=asked))
        (mean,) = found.aggregates
        rows = [row for row in found.rows if row.metric == of]
        assert mean.metric == ("main" if of == "acc1" else of)
        assert len(rows) == 2
        assert mean.difference == pytest.approx(np.mean([row.difference for row in rows]))


def test_groups_with_other_captions_are_not_flipped():
    a = retrieved(np.ones(12, bool))
    arrays = dict(a.arrays, image_of_text=np.array([0] * 6 + [1, 1, 2, 2, 3, 3]))
    b = Outcome(kind="retrieval", arrays=arrays, options=a.options)
    found = compare(evaluation("a", {"x": a}), evaluation("b", {"x": b}), QUICK)
    assert found.rows[0].test == "bootstrap"


def test_noise_of_seeds_stands_beside_a_difference():
    rng = np.random.default_rng(0)
    order = rng.permutation(1000)

    def model(name, right):
        return evaluation(name, {"x": classified(order < right), "y": classified(order < 500)})

    a, b = model("a", 600), model("b", 660)
    assert compare(a, b, QUICK).rows[0].verdict == "B better"
    quiet = compare(a, b, QUICK, [model("a2", 601), model("a3", 599)])
    assert quiet.rows[0].verdict == "B better"
    assert quiet.rows[0].noise == noise_floor(np.array([0.6, 0.601, 0.599]))
    loud = compare(a, b, QUICK, [model("a2", 620), model("a3", 590)])
    assert loud.rows[0].verdict == "within noise"
    assert loud.rows[0].noise.smallest_difference > 0.06
    assert loud.rows[1].noise.standard_deviation == 0
    assert loud.aggregates[0].noise == noise_floor((np.array([0.6, 0.62, 0.59]) + 0.5) / 2)
    assert loud.warnings == []


def test_seeds_without_the_scores_are_told():
    hits_a, hits_b = two_models()
    a = evaluation("a", {"x": classified(hits_a), "y": classified(hits_a)})
    b = evaluation("b", {"x": classified(hits_b), "y": classified(hits_b)})
    other_data = evaluation("a2", {"x": classified(hits_a)}, data_sha256="other")
    no_metric = evaluation("a3", {"x": classified(hits_a), "y": classified(hits_b)})
    del no_metric.tasks["x"]["metrics"]["acc1"]
    no_number = evaluation("a4", {"x": classified(hits_a), "y": classified(hits_a)})
    no_number.tasks["y"]["metrics"]["acc1"]["value"] = "nan"  # as strict JSON says it
    no_number.tasks["x"]["data_sha256"] = "other"
    found = compare(a, b, QUICK, [other_data, no_metric, no_number])
    assert found.warnings == [
        "x: a2 has no scores on these data",
        "x: a3 has no acc1",
        "x: a4 has no scores on these data",
        "y: a2 has no scores on these data",
        "y: a4 has no acc1",
    ]
    assert found.rows[0].noise is None
    assert found.rows[1].noise.runs == 2
    assert found.aggregates[0].noise is None


def test_what_cannot_be_compared_is_left_out_with_the_reason():
    hits_a, hits_b = two_models(n=40)
    names = ["same", "data", "main", "kind", "keys", "order", "none"]
    a = evaluation(
        "a", {n: classified(hits_a) for n in [*names, "only a"]}, failed={"broken": "no such file"}
    )
    b = evaluation("b", {n: classified(hits_b) for n in [*names, "only b", "broken"]})
    b.tasks["data"]["data_sha256"] = "other"
    b.tasks["main"]["main_metric"] = "acc5"
    b.tasks["kind"]["kind"] = "retrieval"
    a.tasks["none"]["main_metric"] = b.tasks["none"]["main_metric"] = None
    outcome, keys = b.outcomes["keys"]
    b.outcomes["keys"] = (outcome, ["keys/x" if key == "keys/0003" else key for key in keys])
    b.outcomes["order"] = (b.outcomes["order"][0], b.outcomes["order"][1][::-1])
    said = []
    found = compare(a, b, QUICK, say=said.append)
    assert said == [f"comparing {task} ..." for task in ("same", "keys", "order")]
    assert [row.task for row in found.rows] == ["same"]
    assert found.left_out == {
        "data": "the data differ (data_sha256)",
        "main": "main_metric is 'acc1' in A and 'acc5' in B",
        "kind": "kind is 'classification' in A and 'retrieval' in B",
        "keys": "1 samples only in A, 1 only in B, 'keys/0003' for one",
        "order": "the same samples stand in another order",
        "none": "it has no main metric",
        "only a": "not in B",
        "only b": "not in A",
        "broken": "failed in A: no such file",
    }


def test_metrics_that_one_lacks_are_left_out():
    hits = np.ones(40, bool)
    with_rare = classified(hits, 6)
    groups = {"group/g": np.array([1] + [0] * 39)}
    rare = Outcome(
        kind="classification",
        arrays={**with_rare.arrays, **groups},
        options={"num_classes": 6, "groups": {"g": ["many", "one"]}},
    )
    a = evaluation("a", {"x": rare, "y": rare})
    b = evaluation("b", {"x": rare, "y": classified(hits, 6)})
    found = compare(a, b, Settings(metric="acc_g_many", resamples=200))
    assert [row.task for row in found.rows] == ["x"]
    assert found.left_out == {"y acc_g_many": "no metric 'acc_g_many' in B"}


def test_metrics_whose_clusters_differ_are_left_out():
    a, b = retrieved(np.ones(12, bool), captions=3), retrieved(np.ones(12, bool), captions=4)
    keys = [str(i) for i in range(12)]
    first = evaluation("a", {"x": a, "y": a}, keys=keys)
    found = compare(first, evaluation("b", {"x": b, "y": a}, keys=keys), QUICK)
    assert [row.task for row in found.rows] == ["y"]
    assert found.left_out == {"x": "4 clusters in A and 3 in B"}


def test_other_prompts_protocols_and_bad_images_are_told():
    hits_a, hits_b = two_models()
    a = evaluation("a", {"x": classified(hits_a)})
    b = evaluation(
        "b", {"x": classified(hits_b)},
        prompts_sha256="2" * 64, protocol="own", bad_samples=3,
    )  # fmt: skip
    assert compare(a, b, QUICK).warnings == [
        "x: protocol is 'clip-benchmark' in A and 'own' in B; the difference may be one of "
        "protocols",
        "x: prompts_sha256 is '11111111111…' in A and '22222222222…' in B; the difference may be "
        "one of prompts",
        "x: bad_samples is 0 in A and 3 in B; those count as wrong",
    ]


def test_scores_that_are_not_those_of_the_samples_are_told():
    hits_a, hits_b = two_models()
    a, b = evaluation("a", {"x": classified(hits_a)}), evaluation("b", {"x": classified(hits_b)})
    b.tasks["x"]["metrics"]["acc1"]["value"] = 0.9
    (warning,) = compare(a, b, QUICK).warnings
    assert warning.startswith(f"x: b says acc1 0.9000, its samples say {hits_b.mean():.4f}")


def test_too_few_resamples_are_told():
    tasks = {f"t{i}": two_models(i) for i in range(3)}
    a = evaluation("a", {t: classified(hits[0]) for t, hits in tasks.items()})
    b = evaluation("b", {t: classified(hits[1]) for t, hits in tasks.items()})
    found = compare(a, b, Settings(metric="mean_per_class_recall", resamples=99))
    assert found.warnings == [
        "with 99 resamples no adjusted p value of 3 may come below 0.06; use more"
    ]
    assert compare(a, b, Settings(resamples=99)).warnings == []  # exact tests draw nothing


@pytest.mark.parametrize(
    ("b_tasks", "metric", "message"),
    [
        (["z"], "main", "^b: has no task of a. Evaluate both on one suite.$"),
        (["x"], "acc11", "^--metric=acc11: no task has it. Did you mean 'acc1'[?] There are: acc1"),
        (["x other"], "main", "^a and b have no scores .* x: the data differ"),
    ],
)
def test_nothing_in_common_is_an_error(b_tasks, metric, message):
    hits_a, hits_b = two_models()
    fields = {"data_sha256": "other"} if "other" in b_tasks[0] else {}
    a = evaluation("a", {"x": classified(hits_a)})
    b = evaluation("b", {t.split()[0]: classified(hits_b) for t in b_tasks}, **fields)
    with pytest.raises(UserError, match=message):
        compare(a, b, Settings(metric=metric, resamples=50))


def test_samples_that_give_no_scores_are_an_error():
    a = evaluation("a", {"x": classified(two_models()[0])})
    b = evaluation("b", {"x": classified(two_models()[1])})
    outcome, keys = b.outcomes["x"]
    arrays = {name: array for name, array in outcome.arrays.items() if name != "predicted"}
    b.outcomes["x"] = (dataclasses.replace(outcome, arrays=arrays), keys)
    with pytest.raises(UserError, match=r"^b: the samples of task 'x' give no .* \('predicted'\)"):
        compare(a, b, QUICK)
