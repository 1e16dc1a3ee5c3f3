import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

from clipjax.evals.outcomes import classification, metrics_of
from clipjax.evals.outcomes.classification import judge


def by_definition(images, classes, labels):
    """Predicted class and place of the right one, in float64, one image at a time."""
    predicted, places = [], []
    for image, label in zip(images.astype(np.float64), labels, strict=True):
        order = sorted(range(len(classes)), key=lambda c: (-(image @ classes[c]), c))
        predicted.append(order[0])
        places.append(order.index(label))
    return np.array(predicted), np.array(places)


@settings(deadline=None, max_examples=40)
@given(
    images=st.integers(1, 40),
    classes=st.integers(1, 12),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
    most=st.sampled_from([1, 30, 1 << 23]),
)
def test_outcome_is_that_of_the_definition_whatever_the_chunk(images, classes, ties, seed, most):
    make = _rows_with_ties if ties else _rows
    x, w = make(seed, images), make(seed + 1, classes)
    labels = np.random.default_rng(seed).integers(0, classes, images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classification, "_MOST_LOGITS", most)
        arrays = judge(x, w, labels, scale=10.0).arrays
    predicted, places = by_definition(x, w, labels)
    assert arrays["predicted"].tolist() == predicted.tolist()
    assert arrays["in_top5"].tolist() == (places < 5).tolist()
    logits = 10 * x.astype(np.float64) @ w.T
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = np.arange(images)
    np.testing.assert_allclose(arrays["confidence"], softmax[rows, predicted], rtol=2e-5)
    np.testing.assert_allclose(arrays["truth_probability"], softmax[rows, labels], rtol=2e-5)


def _rows(seed, rows):
    x = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _rows_with_ties(seed, rows):
    return np.random.default_rng(seed).choice([-0.5, 0.0, 0.5], (rows, 4)).astype(
        np.float32
    ) + np.float32(0.25)


@pytest.fixture
def judged(unit_rows):
    """60 images of 9 classes, two of which have none; some of them did not decode."""
    rng = np.random.default_rng(3)
    images, classes = unit_rows(0, 60), unit_rows(1, 9)
    images[[3, 17]] = 0
    labels = rng.integers(0, 7, 60)
    regions, years = rng.integers(0, 3, 60), rng.integers(0, 2, 60)
    return judge(
        images,
        classes,
        labels,
        groups={"region": regions, "year": years},
        group_names={"region": ["Asia", "Other", "Africa", "Oceania"]},
        worst=[
            {"name": "acc_worst_region", "field": "region", "skip": ["Other"]},
            {"name": "acc_top5_wg", "field": "year", "top": 5},
        ],
    )


def test_scores_are_those_of_scikit_learn_also_on_resampled_images(judged, redraw):
    label, predicted = judged.arrays["label"], judged.arrays["predicted"]
    top5 = judged.arrays["in_top5"]
    region, year = judged.arrays["group/region"], judged.arrays["group/year"]
    found = metrics_of(judged)

    def macro(score):
        return lambda chosen: score(
            label[chosen],
            predicted[chosen],
            average="macro",
            labels=np.unique(label[chosen]),
            zero_division=0,
        )

    def worst(hits, groups, among):
        return lambda chosen: min(
            hits[chosen][groups[chosen] == g].mean() for g in among if (groups[chosen] == g).any()
        )

    hit = label == predicted
    references = {
        "acc1": lambda chosen: hit[chosen].mean(),
        "acc5": lambda chosen: top5[chosen].mean(),
        "acc_avg": lambda chosen: hit[chosen].mean(),
        "mean_per_class_recall": macro(recall_score),
        "recall-macro_all": macro(recall_score),
        "F1-macro_all": macro(f1_score),
        "acc_region_Africa": lambda chosen: hit[chosen][region[chosen] == 2].mean(),
        "acc_year_1": lambda chosen: hit[chosen][year[chosen] == 1].mean(),
        "acc_worst_region": worst(hit, region, (0, 2)),
        "acc_worst_year": worst(hit, year, (0, 1)),
        "acc_top5_wg": worst(top5, year, (0, 1)),
    }
    for name, reference in references.items():
        redraw(found[name], reference)
    assert set(found) - set(references) == {"acc_region_Asia", "acc_region_Other", "acc_year_0"}


def test_recall_is_balanced_accuracy(unit_rows):
    labels = np.random.default_rng(0).permutation(np.arange(80) % 6)
    outcome = judge(unit_rows(0, 80), unit_rows(1, 6), labels)
    expected = balanced_accuracy_score(labels, outcome.arrays["predicted"])
    assert metrics_of(outcome)["mean_per_class_recall"].value == pytest.approx(expected)


def test_a_picture_that_did_not_decode_is_wrong_and_counted(unit_rows):
    images = np.array([[1, 0], [0, 0], [np.nan, 1]], np.float32)
    classes = np.array([[1, 0], [0, 1]], np.float32)
    outcome = judge(images, classes, np.zeros(3, int))
    assert outcome.arrays["predicted"].tolist() == [0, -1, -1]
    assert outcome.arrays["in_top5"].tolist() == [True, False, False]
    assert outcome.arrays["confidence"][1:].tolist() == [0.5, 0.5]
    assert outcome.arrays["truth_probability"][1:].tolist() == [0.5, 0.5]
    found = metrics_of(outcome)
    assert found["acc1"].value == found["mean_per_class_recall"].value == pytest.approx(1 / 3)
    assert found["F1-macro_all"].value == pytest.approx(0.5)
    assert "acc5" not in found


def test_a_class_that_is_not_a_number_makes_every_image_wrong(unit_rows):
    classes = unit_rows(1, 6)
    classes[2] = np.nan
    outcome = judge(unit_rows(0, 10), classes, np.full(10, 2))
    assert (outcome.arrays["predicted"] == -1).all()
    assert metrics_of(outcome)["acc5"].value == 0


def test_one_class_is_always_right(unit_rows):
    found = metrics_of(judge(unit_rows(0, 5), unit_rows(1, 1), np.zeros(5, int)))
    assert {name: metric.value for name, metric in found.items()} == dict.fromkeys(
        ["acc1", "mean_per_class_recall", "F1-macro_all", "recall-macro_all"], 1.0
    )
    assert all(metric.chance == 1 for metric in found.values())


def test_a_model_that_sees_nothing_names_the_first_class():
    labels = np.arange(12) % 6
    point = np.ones((12, 4), np.float32) / 2
    found = metrics_of(judge(point, point[:6], labels))
    assert found["acc1"].value == found["mean_per_class_recall"].value == pytest.approx(1 / 6)
    assert found["acc5"].value == pytest.approx(5 / 6)


def test_chance_is_uniform_or_the_commonest_classes(unit_rows):
    labels = np.array([0] * 6 + [1] * 2 + [2] * 2)
    found = metrics_of(judge(unit_rows(0, 10), unit_rows(1, 20), labels))
    assert found["acc1"].chance == pytest.approx(0.6)
    assert found["acc5"].chance == pytest.approx(1.0)
    assert found["mean_per_class_recall"].chance == pytest.approx(1 / 3)
    # Always the commonest: precision 0.6, recall 1, and nothing for the other two.
    assert found["F1-macro_all"].chance == pytest.approx(0.75 / 3)
    assert metrics_of(judge(unit_rows(0, 40), unit_rows(1, 20), np.arange(40) % 20))[
        "acc1"
    ].chance == pytest.approx(0.05)


def test_resampled_scores_lie_around_the_score(judged):
    for name, metric in metrics_of(judged).items():
        share = metric.counts / len(metric.cells)
        drawn = np.random.default_rng(0).multinomial(len(metric.cells), share, size=4000)
        scores = metric.of_counts(drawn.astype(np.float64))
        assert 0 <= np.nanmin(scores) <= np.nanmax(scores) <= 1
        if "worst" not in name and not name.endswith("wg"):  # these are biased downwards
            error = np.nanstd(scores)
            assert np.nanmean(scores) == pytest.approx(metric.value, abs=0.3 * error), name


def test_what_is_kept_can_be_written(judged):
    assert json.loads(json.dumps(judged.options)) == judged.options
    assert judged.options["groups"]["year"] == ["0", "1"]
    assert all(
        len(array) == 60 and array.dtype.hasobject is False for array in judged.arrays.values()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 3])}, "label 3 of image 1; expected 0 to 2"),
        ({"labels": np.array([-1, 0])}, "label -1 of image 0"),
        ({"groups": {"sex": np.array([0, -2])}}, "group of 'sex' -2 of image 1; expected -1 to 0"),
        (
            {"groups": {"sex": np.array([0, 2])}, "group_names": {"sex": ["f", "m"]}},
            "group of 'sex' 2 of image 1; expected -1 to 1",
        ),
        ({"worst": [{"name": "w", "field": "x"}]}, r"w: no groups by 'x', only by \['one'\]"),
        ({"worst": [{"name": "w", "field": "one", "top": 3}]}, "w: top=3; expected 1 or 5"),
    ],
)
def test_mistakes_are_named(unit_rows, change, message):
    given = {"labels": np.array([0, 1]), "groups": {"one": np.array([0, 0])}} | change
    with pytest.raises(ValueError, match=message):
        judge(unit_rows(0, 2), unit_rows(1, 3), **given)
