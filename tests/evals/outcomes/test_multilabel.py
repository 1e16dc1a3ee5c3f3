import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from clipjax.evals.outcomes import metrics_of, multilabel
from clipjax.evals.outcomes.multilabel import average_precision_per_class, judge


def by_definition(scores, targets):
    """The mean over right images of the share of right ones up to them; -inf is never found."""
    order = sorted(np.flatnonzero(scores > -np.inf), key=lambda i: (-scores[i], i))
    found, sums = 0, 0.0
    for place, image in enumerate(order, 1):
        if targets[image]:
            found += 1
            sums += found / place
    return sums / max(targets.sum(), 1)


def mean_by_definition(scores, targets):
    return np.mean([by_definition(scores[:, k], targets[:, k]) for k in range(scores.shape[1])])


@settings(deadline=None, max_examples=60)
@given(
    images=st.integers(1, 30),
    levels=st.sampled_from([1, 2, 5, 10_000]),
    lost=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_average_precision_is_that_of_the_definition(images, levels, lost, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (images, 3)).astype(np.float64)
    targets = rng.random((images, 3)) < 0.3
    if lost:
        scores[rng.random(images) < 0.3] = -np.inf
    expected = [by_definition(scores[:, k], targets[:, k]) for k in range(3)]
    np.testing.assert_allclose(average_precision_per_class(scores, targets), expected, rtol=1e-12)


def test_scikit_learn_agrees_where_no_scores_are_equal():
    rng = np.random.default_rng(0)
    scores, targets = rng.permutation(400).reshape(100, 4) / 400, rng.random((100, 4)) < 0.2
    expected = average_precision_score(targets, scores, average=None)
    np.testing.assert_allclose(average_precision_per_class(scores, targets), expected, rtol=1e-12)


def test_scikit_learn_gives_equals_the_precision_of_the_last_of_them():
    """Right, wrong, right, all of one score: (1 + 2 / 3) / 2 in this order, 2 / 3 as one step."""
    scores, targets = np.zeros((3, 1)), np.array([[True], [False], [True]])
    assert average_precision_per_class(scores, targets)[0] == pytest.approx(5 / 6)
    assert average_precision_score(targets[:, 0], scores[:, 0]) == pytest.approx(2 / 3)


@pytest.fixture
def judged(unit_rows):
    """40 images of 6 classes, of which the last is never shown; two did not decode."""
    images = unit_rows(0, 40, ties=True)
    targets = np.random.default_rng(1).random((40, 6)) < 0.2
    images[[5, 9]] = 0
    targets[5] = True
    targets[:, 5] = False
    return judge(images, unit_rows(1, 6, ties=True), targets)


@pytest.mark.parametrize("most", [1, 100, 1 << 20])
def test_a_resample_is_scored_as_if_its_images_stood_there(judged, redraw, monkeypatch, most):
    monkeypatch.setattr(multilabel, "_MOST_COUNTS", most)
    scores, targets = judged.arrays["scores"], judged.arrays["targets"]
    metric = metrics_of(judged)["mean_average_precision"]

    def score(chosen):
        chosen = np.sort(chosen)  # equals stand in the order of their numbers
        return mean_by_definition(scores[chosen], targets[chosen])

    redraw(metric, score)
    assert metric.samples == 40


def test_copies_are_as_many_as_the_draw_says():
    """One right image three times behind a wrong one twice: (1/3 + 2/4 + 3/5) / 3."""
    ranked = multilabel._Ranked(np.array([2.0, 1.0]), np.array([False, True]))
    assert ranked(np.array([[2.0, 3.0]]))[0] == pytest.approx((1 / 3 + 2 / 4 + 3 / 5) / 3)
    assert ranked(np.array([[0.0, 3.0], [5.0, 0.0]])).tolist() == [1.0, 0.0]


def test_a_picture_that_did_not_decode_is_never_found(unit_rows):
    images, classes = unit_rows(0, 3), unit_rows(1, 1)
    images[1:] = [[0] * 8, [np.nan] * 8]
    outcome = judge(images, classes, np.array([[True], [True], [True]]))
    assert outcome.arrays["scores"][1:].tolist() == [[-np.inf], [-np.inf]]
    assert metrics_of(outcome)["mean_average_precision"].value == pytest.approx(1 / 3)


def test_chance_is_the_mean_over_all_orders():
    for images, right in ((1, 1), (4, 1), (5, 3), (6, 6)):
        orders = set(itertools.permutations([True] * right + [False] * (images - right)))
        scores = -np.arange(images, dtype=np.float64)[:, None]
        mean = np.mean([average_precision_per_class(scores, np.array([o]).T)[0] for o in orders])
        assert multilabel._chance(right, images) == pytest.approx(mean)
    assert multilabel._chance(0, 5) == 0


def test_resampled_scores_lie_around_the_score():
    rng = np.random.default_rng(0)
    targets = rng.random((500, 3)) < 0.3
    scores = rng.normal(size=(500, 3)).astype(np.float32) + targets
    outcome = multilabel.Outcome(
        kind="multilabel", arrays={"scores": scores, "targets": targets}, options={}
    )
    metric = metrics_of(outcome)["mean_average_precision"]
    drawn = rng.multinomial(500, np.full(500, 1 / 500), size=1000).astype(np.float64)
    found = metric.of_counts(drawn)
    assert found.mean() == pytest.approx(metric.value, abs=0.01)
    assert 0.005 < found.std() < 0.04


def test_no_images_are_an_error():
    outcome = judge(
        np.zeros((0, 4), np.float32), np.eye(4, dtype=np.float32), np.zeros((0, 4), bool)
    )
    with pytest.raises(ValueError, match="no samples"):
        metrics_of(outcome)
