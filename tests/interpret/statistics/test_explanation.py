import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from clipjax.interpret.statistics.explanation import (
    average_precision,
    contrastive_words,
    enrichment_p,
    explain,
    soft_wpmi,
)
from clipjax.interpret.statistics.planted import PlantConfig, plant


def column(seed, count=200, ties=False):
    rng = np.random.default_rng(seed)
    shown = rng.random(count) < 0.2
    shown[:2] = True, False
    values = rng.normal(size=count) + 1.5 * shown
    return (np.maximum(np.rint(values), 0) if ties else values), shown


@given(st.integers(0, 10_000), st.booleans())
def test_scores_are_those_of_scikit_learn_and_scipy(seed, ties):
    values, shown = column(seed, ties=ties)
    got = explain(values, shown, share=0.1)
    active = values > np.quantile(values, 0.9)
    assert got.ap == pytest.approx(metrics.average_precision_score(shown, values))
    assert got.f1 == pytest.approx(metrics.f1_score(shown, active))
    assert got.iou == pytest.approx(metrics.jaccard_score(shown, active))
    assert got.pearson == pytest.approx(stats.pearsonr(values, shown.astype(float))[0])
    cosine = metrics.pairwise.cosine_similarity(values[None], shown[None].astype(float))
    assert got.cosine == pytest.approx(cosine[0, 0])
    mad = (values[shown].mean() - values[~shown].mean()) / values[~shown].std()
    assert got.mad == pytest.approx(mad)


@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_tied_stimuli_does_not_matter(seed, random):
    values, shown = column(seed, ties=True)
    order = list(range(len(values)))
    random.shuffle(order)
    assert average_precision(values[order], shown[order]) == pytest.approx(
        average_precision(values, shown), rel=1e-12
    )


def test_explanations_notice_missing_and_extra_labels():
    """The two sanity checks of NeuronEval (2506.05774): AUROC fails them, these five pass.

    Half of the positives lose their label, or as many negatives get one. A score of how well the
    concept explains the unit must fall in nearly all units.
    """
    config = PlantConfig(
        units=40, planted=40, single=0, divergent=0, effect=4.0, fewest=40, most=60
    )
    planted = plant(config, seed=0)
    rng = np.random.default_rng(0)
    falls = {"missing": [], "extra": []}
    auroc_falls = []
    for unit, concept in np.argwhere(planted.truth):
        values, shown = planted.activations[0][:, unit], planted.labels[:, concept]
        on, off = np.flatnonzero(shown), np.flatnonzero(~shown)
        missing, extra = shown.copy(), shown.copy()
        missing[rng.choice(on, len(on) // 2, replace=False)] = False
        extra[rng.choice(off, len(on), replace=False)] = True
        whole = explain(values, shown)
        for name, labels in (("missing", missing), ("extra", extra)):
            less = explain(values, labels)
            falls[name].append(
                [
                    getattr(less, f) < getattr(whole, f)
                    for f in ("ap", "f1", "iou", "pearson", "cosine")
                ]
            )
        auroc_falls.append(
            metrics.roc_auc_score(missing, values) < metrics.roc_auc_score(shown, values) - 0.05
        )
    for name, rows in falls.items():
        assert np.mean(rows, axis=0).min() >= 0.9, name
    assert np.mean(auroc_falls) < 0.5


def test_constant_units_and_concepts_are_not_a_number():
    got = explain(np.zeros(10), np.arange(10) < 3)
    assert np.isnan(got.pearson)
    assert np.isnan(got.mad)
    assert got.ap == pytest.approx(0.3)  # all are found together
    never = explain(np.arange(10.0), np.zeros(10, bool))
    assert np.isnan([never.ap, never.mad, never.pearson]).all()


def test_labels_of_exemplars():
    exemplars = np.zeros((10, 4), bool)
    exemplars[:8, 1] = True
    exemplars[8:, 2] = True
    even = soft_wpmi(exemplars, np.full(4, 0.1))
    assert even.argmax() == 1
    assert even[2] > even[0]
    # Nearly every stimulus shows concept 1: that the exemplars do, too, says little of it.
    frequent = soft_wpmi(exemplars, np.array([0.1, 0.99, 0.01, 0.1]), penalty=3.0)
    assert frequent.argmax() == 2
    got = enrichment_p(np.array([8, 2]), 10, np.array([20, 100]), 200)
    for p, hits, positives in zip(got, (8, 2), (20, 100), strict=True):
        exact = sum(stats.hypergeom.pmf(k, 200, positives, 10) for k in range(hits, 11))
        assert p == pytest.approx(exact)


def test_words_of_exemplars_are_those_that_silent_stimuli_lack():
    high = [["red", "cat"], ["cat", "face"], ["big", "cat"]]
    low = [["red", "dog"], ["face", "dog"]]
    rarity = {"red": 1.0, "cat": 1.0, "face": 1.0, "big": 2.0, "dog": 1.0}
    assert contrastive_words(high, low, rarity, most=2) == ["cat", "big"]
    assert contrastive_words([], [], rarity) == []


def test_an_explanation_has_a_field_for_each_score():
    fields = {f.name for f in dataclasses.fields(explain(*column(0)))}
    assert fields == {"ap", "f1", "iou", "pearson", "cosine", "mad"}
