"""Votes of the nearest, against scikit-learn's and against the formula written out."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from clipjax.config import UserError
from clipjax.evals.labelled_features import LabelledFeatures
from clipjax.evals.neighbours import nearest, nearest_neighbours, unit_rows

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def drawn(images, seed, *, dim=12, classes=6):
    centres = np.random.default_rng(3).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    features = centres[labels] + 1.5 * rng.normal(size=(images, dim))
    return LabelledFeatures(features.astype(np.float32), labels, "train")


@pytest.mark.parametrize("k", [1, 5, 20, 300])
def test_majority_equals_scikit_learn(k):
    train, test = drawn(300, 0), drawn(500, 1)
    model = KNeighborsClassifier(k, metric="cosine").fit(train.features, train.labels)
    expected = model.predict(test.features)  # of classes with equal votes the least, as ours
    assert np.array_equal(nearest_neighbours(train, test, k=k, temperature=None), expected)


@pytest.mark.parametrize("temperature", [0.07, 1.0, 1e-4])
def test_weighted_votes_are_those_of_the_formula(temperature):
    train, test = drawn(150, 2), drawn(80, 3)
    a = train.features / np.linalg.norm(train.features.astype(np.float64), axis=1, keepdims=True)
    b = test.features / np.linalg.norm(test.features.astype(np.float64), axis=1, keepdims=True)
    for row, found in zip(
        b, nearest_neighbours(train, test, k=9, temperature=temperature), strict=True
    ):
        cosines = a @ row
        order = np.argsort(-cosines)[:9]
        votes = np.zeros(6)
        for place in order:
            votes[train.labels[place]] += np.exp((cosines[place] - cosines[order[0]]) / temperature)
        assert votes[found] == pytest.approx(votes.max(), rel=1e-4)


@given(
    hnp.arrays(np.float32, (5, 9), elements=st.integers(-3, 3)),
    st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_nearest_is_the_first_of_a_stable_sort(similarity, k):
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    expected = np.zeros(similarity.shape, bool)
    np.put_along_axis(expected, order, True, axis=1)
    assert np.array_equal(nearest(similarity, k), expected)


def test_ties_are_settled_by_order_and_by_class():
    one = np.ones((4, 2), np.float32)
    train = LabelledFeatures(one, np.array([5, 5, 2, 2]))
    test = LabelledFeatures(one[:1], np.zeros(1, int))
    for temperature in (None, 0.07):
        assert nearest_neighbours(train, test, k=3, temperature=temperature).tolist() == [5]
        assert nearest_neighbours(train, test, k=4, temperature=temperature).tolist() == [2]


def test_blocks_and_lengths_do_not_change_it(monkeypatch):
    train, test = drawn(100, 4), drawn(60, 5)
    whole = nearest_neighbours(train, test, k=7)
    monkeypatch.setattr("clipjax.evals.neighbours._BLOCK_SIMILARITIES", 700)
    assert np.array_equal(nearest_neighbours(train, test, k=7), whole)
    longer = LabelledFeatures(test.features * np.float32(4), test.labels)
    assert np.array_equal(nearest_neighbours(train, longer, k=7), whole)


def test_pictures_that_did_not_decode_neither_vote_nor_are_named():
    train, test = drawn(50, 6), drawn(30, 7)
    whole = nearest_neighbours(train, test, k=50)
    gaps = LabelledFeatures(np.zeros((60, 12), np.float32), np.full(60, 5))
    found = nearest_neighbours(train.joined(gaps), test.joined(gaps), k=50)
    assert np.array_equal(found[:30], whole)
    assert (found[30:] == -1).all()
    with pytest.raises(UserError, match="train and features: 50 images decode, and k=51"):
        nearest_neighbours(train.joined(gaps), test, k=51)
    with pytest.raises(UserError, match="k=0 are to vote"):
        nearest_neighbours(train, test, k=0)


def test_unit_rows_of_any_size():
    rows = np.array([[3e30, 4e30], [3e-30, 4e-30], [0, 0]], np.float32)
    np.testing.assert_allclose(unit_rows(rows), [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)
    assert unit_rows(rows).dtype == np.float32
