"""Scores of probes with their intervals."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from clipjax.evals.linear_probe import mean_per_class_recall
from clipjax.evals.probe_scores import probe_scores


def test_scores_are_those_of_scikit_learn_and_lie_in_their_intervals():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 500, p=[0.6, 0.2, 0.15, 0.05])
    predicted = np.where(rng.random(500) < 0.7, labels, rng.integers(-1, 4, 500))
    scores = probe_scores(predicted, labels)
    recall = scores["mean_per_class_recall"]
    assert scores["acc1"].value == pytest.approx((predicted == labels).mean())
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert recall.value == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert recall.value == pytest.approx(mean_per_class_recall(predicted, labels))
    share = scores["acc1"].value
    # The normal interval of a share of 500; the percentile one is as wide within its own noise.
    half = 1.96 * (share * (1 - share) / 500) ** 0.5
    assert scores["acc1"].low == pytest.approx(share - half, abs=0.01)
    assert scores["acc1"].high == pytest.approx(share + half, abs=0.01)
    assert recall.low < recall.value < recall.high
    assert recall.high - recall.low > scores["acc1"].high - scores["acc1"].low  # rare classes
    assert scores["acc1"].chance == np.bincount(labels).max() / 500
    assert recall.chance == 0.25
    assert scores["acc1"].samples == 500
