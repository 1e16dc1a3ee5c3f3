"""Subsets that are nested and seeded, and what is learnt from them."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from clipjax.config import UserError
from clipjax.evals.few_shot import FewShotResult, few_shot, nearest_mean, nested_subsets
from clipjax.evals.labelled_features import LabelledFeatures
from clipjax.evals.linear_probe import accuracy, linear_probe, sweep

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def drawn(images, seed, *, dim=8, classes=4):
    centres = np.random.default_rng(3).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    features = centres[labels] + rng.normal(size=(images, dim))
    return LabelledFeatures(features.astype(np.float32), labels, "train")


@given(st.sets(st.integers(1, 7), min_size=1), st.integers(0, 2**31), st.permutations(range(28)))
@settings(max_examples=30, deadline=None)
def test_subsets_are_nested_and_hold_so_many_of_each_class(shots, seed, order):
    images = drawn(28, 0).take(np.array(order))
    found = nested_subsets(images, sorted(shots), seed=seed)
    assert list(found) == sorted(shots)
    before: set[int] = set()
    for k, rows in found.items():
        assert np.bincount(images.labels[rows]).tolist() == [k] * 4
        assert before <= set(rows.tolist())
        assert rows.tolist() == sorted(set(rows.tolist()))
        before = set(rows.tolist())
    again = nested_subsets(images, [max(shots)], seed=seed)
    assert np.array_equal(again[max(shots)], found[max(shots)])  # whatever else was asked for


def test_draws_differ_by_seed_and_every_image_may_be_drawn():
    images = drawn(40, 0)
    rows = [nested_subsets(images, [1], seed=seed)[1] for seed in range(200)]
    # Each of 10 images of a class is missed by all draws with probability 0.9 ** 200 < 1e-9.
    assert set(np.concatenate(rows).tolist()) == set(range(40))
    counts = np.bincount(np.concatenate(rows))
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_too_few_images_name_the_class():
    images = drawn(20, 0)
    features = images.features.copy()
    features[images.labels == 2] *= np.arange(5)[:, None] > 0  # the first of them did not decode
    less = LabelledFeatures(features, images.labels, "x.npy")
    assert 2 not in np.flatnonzero(~less.usable)[1:]
    with pytest.raises(
        UserError, match=r"x.npy: class c2 has 4 images that decode; 5 a class were"
    ):
        nested_subsets(less, [1, 5], seed=0, name=lambda label: f"c{label}")
    lost = np.flatnonzero(~less.usable)
    for seed in range(50):
        assert not set(lost) & set(nested_subsets(less, [4], seed=seed)[4])
    for shots in ([], [0], [1, -2]):
        with pytest.raises(UserError, match=r"shots=.*from 1 on"):
            nested_subsets(images, shots, seed=0)


@pytest.mark.parametrize("method", ["linear", "mean"])
def test_scores_are_those_of_its_parts(method):
    train, test, said = drawn(80, 0), drawn(200, 1), []
    found = few_shot(train, test, shots=(4, 1), seeds=(5, 6), method=method, c=0.5, say=said.append)
    assert [result.shots for result in found] == [1, 4]
    assert len(said) == 4
    for result in found:
        for seed, value in zip((5, 6), result.accuracies, strict=True):
            few = train.take(nested_subsets(train, [result.shots], seed=seed)[result.shots])
            if method == "mean":
                expected = accuracy(nearest_mean(few, test), test.labels)
            else:
                expected = linear_probe(few, None, test, c=0.5).accuracy
            assert value == expected
        assert result.chosen_c == ((0.5, 0.5) if method == "linear" else ())
    assert found[1].mean > found[0].mean > 0.25


def test_validation_images_choose_c_and_are_not_learnt_from():
    train, val, test = drawn(40, 0), drawn(60, 1), drawn(100, 2)
    (result,) = few_shot(train, test, shots=[2], seeds=[3], val=val)
    few = train.take(nested_subsets(train, [2], seed=3)[2])
    c, _ = sweep(few, val)
    assert result.chosen_c == (c,)
    assert result.accuracies == (linear_probe(few, None, test, c=c).accuracy,)


def test_nearest_mean_of_unit_rows_equals_scikit_learn():
    train, test = drawn(60, 0), drawn(300, 1)

    def unit(images):
        return images.features / np.linalg.norm(images.features, axis=1, keepdims=True)

    model = NearestCentroid().fit(unit(train), train.labels)
    means = model.centroids_ / np.linalg.norm(model.centroids_, axis=1, keepdims=True)
    expected = (unit(test) @ means.T).argmax(axis=1)
    assert np.array_equal(nearest_mean(train, test), expected)


def test_nearest_mean_knows_labels_and_gaps():
    features = np.array([[1, 0], [0, 2], [0, 0], [5, 1]], np.float32)
    train = LabelledFeatures(features[:3], np.array([30, 7, 30]))
    test = LabelledFeatures(features, np.zeros(4, int))
    assert nearest_mean(train, test).tolist() == [30, 7, -1, 30]


def test_interval_is_that_of_students_t():
    values = (0.61, 0.67, 0.64, 0.70)
    result = FewShotResult(shots=1, accuracies=values)
    expected = scipy.stats.ttest_1samp(values, 0.5).confidence_interval(0.95)
    np.testing.assert_allclose(result.interval, expected)
    assert result.spread == pytest.approx(np.std(values, ddof=1))


def test_one_draw_has_no_interval():
    result = FewShotResult(shots=1, accuracies=(0.5,))
    assert result.mean == 0.5
    assert math.isnan(result.spread)
    assert all(map(math.isnan, result.interval))
    with pytest.raises(UserError, match="seeds is empty"):
        few_shot(drawn(8, 0), drawn(8, 1), seeds=())
