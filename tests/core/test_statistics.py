import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.core.statistics import bootstrap_interval


def brute_force(values, resamples, seed, coverage=0.95):
    """The definition: n indices drawn with replacement, the mean of each draw, two percentiles."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    return np.quantile(means, [(1 - coverage) / 2, (1 + coverage) / 2])


@pytest.mark.parametrize("coverage", [0.5, 0.95])
@pytest.mark.parametrize("kind", ["hits", "numbers"])
def test_equals_the_definition_up_to_the_noise_of_resampling(kind, coverage):
    rng = np.random.default_rng(1)
    values = (rng.random(150) < 0.3).astype(float) if kind == "hits" else rng.gamma(2.0, size=150)
    resamples = 20_000
    ours = bootstrap_interval(values, resamples=resamples, coverage=coverage)
    # Standard error of a quantile of a normal sample: sqrt(q (1 - q) / n) / density. Both sides
    # have it, so their difference has sqrt(2) of it; five of those, plus one step of the grid of
    # means for hits.
    spread = values.std() / np.sqrt(len(values))
    tail = (1 - coverage) / 2
    density = {0.5: 0.3178, 0.95: 0.0584}[coverage] / spread
    error = 5 * np.sqrt(2 * tail * (1 - tail) / resamples) / density
    error += 1 / len(values) if kind == "hits" else 0
    np.testing.assert_allclose(ours, brute_force(values, resamples, 2, coverage), atol=error)


def test_is_the_normal_interval_for_many_samples():
    values = (np.arange(10_000) < 4_000).astype(float)
    low, high = bootstrap_interval(values, resamples=20_000)
    half = 1.959964 * np.sqrt(0.4 * 0.6 / 10_000)
    # 2.5 % quantile of 20,000 draws: standard error 0.019 sigma; six of them, and a grid step.
    atol = 6 * 0.019 * half / 1.96 + 1e-4
    np.testing.assert_allclose([low, high], [0.4 - half, 0.4 + half], atol=atol)


def test_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    trials, covered = 1000, 0
    for trial in range(trials):
        hits = (rng.random(200) < 0.4).astype(float)
        low, high = bootstrap_interval(hits, resamples=500, seed=trial)
        covered += low <= 0.4 <= high
    # The percentile interval of 200 hits covers 0.94 to 0.95; five standard errors of 0.0075.
    assert 0.905 <= covered / trials <= 0.985


def test_more_coverage_is_a_wider_interval():
    values = np.random.default_rng(0).random(50)
    widths = [
        high - low
        for low, high in (
            bootstrap_interval(values, resamples=2000, coverage=c) for c in (0.5, 0.8, 0.95)
        )
    ]
    assert widths == sorted(widths)
    assert widths[0] < widths[2]


def test_is_the_same_every_time_and_moves_with_the_seed():
    values = np.random.default_rng(0).random(50)
    first = bootstrap_interval(values, resamples=300)
    assert first == bootstrap_interval(values, resamples=300)
    assert first != bootstrap_interval(values, resamples=300, seed=1)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40), st.randoms())
def test_neither_order_nor_type_of_the_values_matters(values, random):
    shuffled = random.sample(values, len(values))
    expected = bootstrap_interval(np.array(values), resamples=100)
    assert bootstrap_interval(np.array(shuffled, bool), resamples=100) == expected
    low, high = expected
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize("values", [[1.0], [0.0], [0.25] * 7, [1, 1, 1]])
def test_equal_values_have_an_interval_without_width(values):
    assert bootstrap_interval(np.array(values), resamples=50) == (values[0], values[0])


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval(np.array([]), resamples=10)
