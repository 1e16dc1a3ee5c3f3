import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals.estimate import Estimate, MatchRows, estimate, rank_of_best


def unit_rows(seed, rows, dim=8):
    x = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def definition(queries, items, query_labels, item_labels):
    """Float64, one query at a time."""
    similarity = queries.astype(np.float64) @ items.astype(np.float64).T
    ranks = []
    for row, label in zip(similarity, query_labels, strict=True):
        best = max(s for s, other in zip(row, item_labels, strict=True) if other == label)
        ranks.append(
            sum(s >= best and other != label for s, other in zip(row, item_labels, strict=True))
        )
    return ranks


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_ranks_are_those_of_the_definition_whatever_the_chunk(queries, items, chunk, seed):
    rng = np.random.default_rng(seed)
    item_labels = rng.integers(0, 5, items)
    query_labels = rng.choice(item_labels, queries)
    q, x = unit_rows(seed, queries), unit_rows(seed + 1, items)
    expected = definition(q, x, query_labels, item_labels)
    for size in (chunk, 1024):
        ranks = rank_of_best(q, x, MatchRows(query_labels, item_labels), chunk=size)
        assert ranks.tolist() == expected


def test_ranks_by_hand():
    """Similarities of the query: 1, 0.8, 0.6, 0 with labels a, b, b, c."""
    query = np.array([[1, 0]], np.float32)
    items = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    labels = np.array([0, 1, 1, 2])
    for label, rank in ((0, 0), (1, 1), (2, 3)):
        assert rank_of_best(query, items, MatchRows(np.array([label]), labels)).tolist() == [rank]


def test_ties_count_against_the_query_wherever_they_stand():
    query = np.array([[1, 0]], np.float32)
    items = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    for place in (1, 2, 3):
        match = MatchRows(np.array([place]), np.arange(4))
        assert rank_of_best(query, items, match).tolist() == [2]


@pytest.mark.parametrize("dim", [5, 16, 33, 512])
@pytest.mark.parametrize("count", [2, 7, 33, 100, 1001])
def test_a_model_that_maps_everything_to_one_point_is_last_everywhere(dim, count):
    """Also where the library of matrix products treats the last rows and columns by themselves."""
    point = unit_rows(0, 1, dim).repeat(count, 0)
    match = MatchRows(np.arange(count), np.arange(count))
    assert (rank_of_best(point, point, match, chunk=64) == count - 1).all()


def test_nan_counts_against_the_query():
    """A diverged model must not look perfect: comparisons with NaN are all false."""
    match = MatchRows(np.arange(3), np.arange(3))
    nothing = np.full((3, 8), np.nan, np.float32)
    good = unit_rows(0, 3)
    assert rank_of_best(nothing, nothing, match).tolist() == [2, 2, 2]
    assert rank_of_best(nothing, good, match).tolist() == [2, 2, 2]
    one_bad = good.copy()
    one_bad[1] = np.nan
    assert rank_of_best(good, one_bad, match).tolist() == [1, 2, 1]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 400))
def test_the_interval_contains_the_value(hits, misses, resamples):
    values = np.array([True] * (hits + (hits + misses == 0)) + [False] * misses)
    found = estimate(values, chance=0.1, resamples=max(resamples, 50))
    assert found.low <= found.value <= found.high
    assert found.low >= 0
    assert found.high <= 1
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert (found.samples, found.chance) == (len(values), 0.1)


def test_the_interval_is_that_of_the_binomial():
    """1,000 samples, 30 % hits: 1.96 standard errors, 0.0284, either way; within a sixth."""
    found = estimate(np.arange(1000) < 300, chance=0.0, resamples=4000)
    for end, sign in ((found.low, -1), (found.high, 1)):
        assert sign * (end - 0.3) == pytest.approx(1.96 * np.sqrt(0.21 / 1000), rel=1 / 6)


def test_estimates_are_reproducible():
    hits = np.random.default_rng(0).random(100) < 0.4
    first = estimate(hits, chance=0.1, resamples=200)
    assert first == estimate(hits, chance=0.1, resamples=200)
    assert isinstance(first, Estimate)


def test_no_samples_are_an_error():
    with pytest.raises(ValueError, match="no values"):
        estimate(np.zeros(0, bool), chance=0.1, resamples=100)
