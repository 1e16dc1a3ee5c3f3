import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clipjax.config import UserError
from clipjax.interpret.statistics import ranks as module
from clipjax.interpret.statistics.ranks import facet_scores, midranks


def drawn(kind, shape, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    if kind == "relu":
        return np.maximum(values, 0)
    return np.round(values, 1) if kind == "coarse" else values


KINDS = ["smooth", "relu", "coarse"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=1, max_size=12))
def test_midranks_are_those_of_scipy(rows):
    columns = np.array(rows, np.float32)
    np.testing.assert_array_equal(midranks(columns), stats.rankdata(columns, axis=0))


def test_midranks_order_infinities_and_both_zeros():
    column = np.array([[np.inf], [-0.0], [0.0], [-np.inf], [np.inf]])
    np.testing.assert_array_equal(midranks(column)[:, 0], [4.5, 2.5, 2.5, 1, 4.5])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_scipy(kind, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ENTRIES", 250)  # several blocks
    activations = drawn(kind, (100, 7)).astype(np.float32)
    labels = drawn("smooth", (100, 3), seed=1) > np.array([0.0, 1.0, -1.2])
    ours = facet_scores(activations, labels, min_positives=1)
    assert ours.tested.all()
    for u, c in itertools.product(range(7), range(3)):
        column = activations[:, u].astype(np.float64)  # scipy would rank in float32
        on, off = column[labels[:, c]], column[~labels[:, c]]
        theirs = stats.mannwhitneyu(
            on, off, alternative="greater", method="asymptotic", use_continuity=False
        )
        assert ours.auroc[u, c] == pytest.approx(theirs.statistic / (len(on) * len(off)), rel=1e-12)
        assert ours.p_value[u, c] == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("positives", [1, 3, 7, 13])
@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_null_is_every_choice_of_positives(kind, positives):
    total = 16 if positives < 13 else 15  # 13 of 15: two negatives
    activations = drawn(kind, (total, 4), seed=2)
    labels = np.zeros((total, 2), bool)
    labels[:positives, 0] = labels[-positives:, 1] = True
    ours = facet_scores(activations, labels, min_positives=1).p_value
    ranks = stats.rankdata(activations, axis=0)
    choices = np.array(list(itertools.combinations(range(total), positives)))
    sums = ranks[choices].sum(axis=1)
    reached = ranks.T @ labels
    by_hand = (sums[:, :, None] >= reached - 1e-9).mean(axis=0)
    np.testing.assert_allclose(ours, by_hand, rtol=1e-12)


def test_the_exact_null_of_many_stimuli_is_that_of_scipy_and_never_zero():
    activations = drawn("smooth", (400, 3), seed=3)
    labels = np.zeros((400, 2), bool)
    labels[:7, 0] = True
    activations[:7, 0] += 1.0
    labels[np.argsort(activations[:, 1])[-7:], 1] = True  # the seven highest: 1 in 3e14
    ours = facet_scores(activations, labels, min_positives=1).p_value
    for u in range(3):
        theirs = stats.mannwhitneyu(
            activations[labels[:, 0], u],
            activations[~labels[:, 0], u],
            alternative="greater",
            method="exact",
        ).pvalue
        assert ours[u, 0] == pytest.approx(theirs, rel=1e-6)
    assert 0 < ours[1, 1] <= 1e-12


def test_a_constant_unit_says_nothing():
    scores = facet_scores(np.full((30, 1), 0.1), np.arange(30)[:, None] < np.array([6, 12]))
    np.testing.assert_array_equal(scores.auroc, 0.5)
    np.testing.assert_array_equal(scores.p_value, 1)
    np.testing.assert_array_equal(scores.z, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_only_the_order_matters_and_reversal_mirrors(seed):
    activations = drawn("coarse", (40, 3), seed)
    labels = np.random.default_rng(seed).random((40, 4)) < 0.4
    scores = facet_scores(activations, labels, min_positives=1)
    stretched = facet_scores(np.exp(activations), labels, min_positives=1)
    np.testing.assert_array_equal(scores.p_value, stretched.p_value)
    mirrored = facet_scores(-activations, labels, min_positives=1)
    np.testing.assert_allclose(scores.auroc, 1 - mirrored.auroc, atol=1e-12)


def test_concepts_with_too_few_positives_or_negatives_are_said_not_to_be_tested():
    labels = np.zeros((20, 4), np.uint8)
    labels[:4, 0] = labels[:5, 1] = labels[:16, 2] = 1
    scores = facet_scores(drawn("smooth", (20, 2)), labels)
    assert scores.tested.tolist() == [False, True, False, False]
    assert np.isnan(scores.p_value).all(axis=0).tolist() == [True, False, True, True]
    lines = scores.untested(["cat", "dog", "sun", "sea"])
    assert [line.split(":")[0] for line in lines] == ["cat", "sun", "sea"]
    assert "4 of 20" in lines[0]
    assert "5" in lines[0]


def test_nan_is_an_error_that_names_unit_and_stimulus():
    activations = drawn("smooth", (20, 3))
    activations[7, 2] = np.nan
    labels = np.arange(20)[:, None] < 6
    with pytest.raises(UserError, match=r"unit 2: .* stimulus 7 is NaN"):
        facet_scores(activations, labels)
    names = [f"emoji-{i}" for i in range(20)]
    with pytest.raises(UserError, match=r"unit image/c: .* stimulus emoji-7 is NaN"):
        facet_scores(activations, labels, units=["image/a", "image/b", "image/c"], stimuli=names)


def test_labels_that_are_not_truths_are_an_error():
    with pytest.raises(UserError, match="stimulus 3, concept 0 is 2"):
        facet_scores(drawn("smooth", (4, 1)), np.array([[0], [1], [1], [2]]))
