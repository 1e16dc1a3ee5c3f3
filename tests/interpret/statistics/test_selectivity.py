import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from clipjax.interpret.statistics.selectivity import (
    compare_dissimilarities,
    dissimilarity,
    lifetime_sparseness,
    response_invariance,
    selectivity_index,
)


def responses(seed=0, stimuli=20, units=12):
    return np.random.default_rng(seed).gamma(1.0, size=(stimuli, units))


def test_selectivity_is_the_area_of_the_published_sum():
    values = responses()
    low, high = values.min(axis=0), values.max(axis=0)
    thresholds = low + np.arange(1, 1_001)[:, None] / 1_000 * (high - low)
    area = (values > thresholds[:, None]).mean(axis=(0, 1))
    # Each of the 20 steps of the share is off by less than one threshold.
    np.testing.assert_allclose(selectivity_index(values), 1 - 2 * area, atol=2 / 1_000)


def test_a_unit_of_one_stimulus_is_selective_and_a_constant_one_has_no_index():
    values = np.stack([np.arange(100) == 7, np.arange(100) != 7, np.ones(100)], axis=1) * 3.0
    np.testing.assert_allclose(selectivity_index(values)[:2], [0.98, -0.98])
    assert np.isnan(selectivity_index(values)[2])
    np.testing.assert_allclose(selectivity_index(values * 5 - 2)[:2], [0.98, -0.98])


def test_sparseness_by_hand():
    # mean(r)^2 / mean(r^2) = (3/2)^2 / (5/2) = 0.9; n = 2.
    np.testing.assert_allclose(lifetime_sparseness(np.array([[1.0], [2.0]])), [0.2])
    assert np.isnan(lifetime_sparseness(np.zeros((3, 1)))[0])
    with pytest.raises(ValueError, match="negative"):
        lifetime_sparseness(np.array([[1.0], [-1.0]]))


def test_invariance_counts_views_above_five_deviations():
    background = np.array([[0.0, 1], [2, 3], [0, 1], [2, 3]])  # means 1 and 2, deviations 1
    views = np.array([[6.1, 0], [5.9, 7.1], [7, 8], [0, 9]])
    assert response_invariance(views, background).tolist() == [0.5, 0.75]
    assert response_invariance(views, background, deviations=0.0).tolist() == [0.75, 0.75]


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
def test_dissimilarities_are_those_of_scipy(metric):
    theirs = distance.squareform(distance.pdist(responses(), metric))
    np.testing.assert_allclose(dissimilarity(responses(), metric=metric), theirs, atol=1e-12)


def test_a_stimulus_without_direction_is_an_error():
    values = responses()
    values[4] = 0.3
    with pytest.raises(ValueError, match="stimulus 4 has no direction"):
        dissimilarity(values)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_the_correlation_is_that_of_scipy(method):
    first = dissimilarity(responses(1))
    second = np.round(dissimilarity(responses(1) + responses(2)), 1)  # with ties
    pairs = np.triu_indices(20, 1)
    theirs = getattr(stats, f"{method}r")(first[pairs], second[pairs]).statistic
    ours = compare_dissimilarities(first, second, method=method, permutations=199)
    assert ours.correlation == pytest.approx(theirs, rel=1e-10)
    assert ours.p_value == 1 / 200


def test_the_p_value_is_that_of_all_renamings():
    first, second = (dissimilarity(responses(seed, stimuli=5)) for seed in (3, 4))
    pairs = np.triu_indices(5, 1)

    def correlation(names):
        return stats.spearmanr(first[pairs], second[np.ix_(names, names)][pairs]).statistic

    seen = correlation(np.arange(5))
    every = [correlation(np.array(n)) for n in itertools.permutations(range(5))]
    exact = np.mean(np.array(every) >= seen - 1e-12)
    ours = compare_dissimilarities(first, second, permutations=3_999)
    assert ours.correlation == pytest.approx(seen)
    assert abs(ours.p_value - exact) < 4 * np.sqrt(exact * (1 - exact) / 4_000) + 1 / 4_000


def test_names_drawn_as_they_were_count():
    square = dissimilarity(responses(5, stimuli=4))
    ours = compare_dissimilarities(square, square, permutations=3_999)
    # One of the 24 ways to name four stimuli is the one that was seen.
    assert abs(ours.p_value - 1 / 24) < 4 * np.sqrt(1 / 24 / 4_000)


def test_stimuli_that_are_all_equally_far_apart_correlate_with_nothing():
    flat, other = 1 - np.eye(4), np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    found = compare_dissimilarities(flat, other, permutations=9)
    assert np.isnan(found.correlation)
    assert found.p_value == 1


def test_matrices_must_be_of_the_same_stimuli():
    square = dissimilarity(responses())
    with pytest.raises(ValueError, match="20 and 19 stimuli"):
        compare_dissimilarities(square, square[1:, 1:])
    square[2, 5] = np.nan
    with pytest.raises(ValueError, match="the second matrix is not symmetric"):
        compare_dissimilarities(dissimilarity(responses()), square)
    constant = compare_dissimilarities(np.ones((20, 20)), np.ones((20, 20)), permutations=0)
    assert np.isnan(constant.correlation)
