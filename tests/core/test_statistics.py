import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.core import statistics
from clipjax.core.statistics import (
    bootstrap_draws,
    bootstrap_interval,
    bootstrap_metric,
    drawn_counts,
    noise_floor,
)


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


def macro_recall(counts):
    """Mean over three classes of the share of hits; cells are (class, hit), NaN without a class."""
    by_class = counts.reshape(len(counts), 3, 2)
    with np.errstate(invalid="ignore"):
        return (by_class[:, :, 1] / by_class.sum(2)).mean(1)


def brute_force_metric(cells, of_counts, size, resamples, seed):
    """The definition: clusters are drawn with replacement, counted, scored; one after the other."""
    rng = np.random.default_rng(seed)
    return np.array(
        [
            of_counts(np.bincount(cells[rng.integers(0, len(cells), len(cells))], minlength=size)
                      .astype(float)[None])[0]
            for _ in range(resamples)
        ]
    )  # fmt: skip


@pytest.mark.parametrize("n", [60, 600], ids=["by cluster", "by cell"])
def test_draws_of_a_metric_have_the_distribution_of_the_definition(n):
    rng = np.random.default_rng(0)
    cells = np.concatenate([np.arange(6), rng.integers(0, 6, n - 6)])
    ours = bootstrap_draws(cells, macro_recall, resamples=4000)
    expected = brute_force_metric(cells, macro_recall, 6, 4000, 1)
    # Kolmogorov-Smirnov of 4,000 against 4,000: 1.95 sqrt(2 / 4000) is passed in 1 of 1,000 cases.
    both = np.sort(np.concatenate([ours, expected]))
    below = [np.searchsorted(np.sort(x), both, "right") / len(x) for x in (ours, expected)]
    assert abs(below[0] - below[1]).max() < 1.95 * np.sqrt(2 / 4000)
    low, high = bootstrap_metric(cells, macro_recall, resamples=4000, coverage=0.9)
    assert (low, high) == (np.quantile(ours, 0.05), np.quantile(ours, 0.95))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(1, 60),
    st.integers(0, 5),
    st.randoms(),
)
def test_arrays_of_cells_see_the_same_draws(pairs, repeats, seed, random):
    pairs = pairs * repeats  # few and many clusters a cell: both ways of drawing
    a, b = np.array(pairs).T
    joint = 4 * a + b
    blocks = list(drawn_counts(a, b, joint, resamples=30, seed=seed))
    of_a, of_b, of_joint = (np.concatenate(column) for column in zip(*blocks, strict=True))
    assert of_a.shape == (30, a.max() + 1)
    assert (of_a.sum(1) == len(a)).all()
    table = np.zeros((30, 20))
    table[:, : of_joint.shape[1]] = of_joint
    table = table.reshape(30, 5, 4)
    np.testing.assert_array_equal(table.sum(2)[:, : of_a.shape[1]], of_a)
    np.testing.assert_array_equal(table.sum(1)[:, : of_b.shape[1]], of_b)
    a, b = np.array(random.sample(pairs, len(pairs))).T
    again = list(drawn_counts(a, b, 4 * a + b, resamples=30, seed=seed))
    np.testing.assert_array_equal(np.concatenate([x[2] for x in again]), of_joint)


@pytest.mark.parametrize("cells", [100, 4], ids=["by cluster", "by cell"])
def test_blocks_of_any_size_are_the_same_draws_and_small(cells, monkeypatch):
    of_cluster = np.arange(200) % cells
    whole = np.concatenate([c for (c,) in drawn_counts(of_cluster, resamples=50)])
    monkeypatch.setattr(statistics, "_CHUNK_ENTRIES", 7 * cells)
    blocks = [c for (c,) in drawn_counts(of_cluster, resamples=50)]
    assert [len(b) for b in blocks] == [7] * 7 + [1]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_a_cell_that_never_occurs_is_counted_as_such():
    (counts,) = next(iter(drawn_counts(np.array([0, 3, 3]), resamples=5)))
    assert counts.shape == (5, 4)
    assert (counts[:, 1:3] == 0).all()


def test_draws_without_a_score_are_dropped_unless_they_are_most():
    # Class 2 has one of 10 clusters: 0.9^10 = 35 % of the draws lack it.
    cells = np.array([0, 1, 1, 0, 2, 3, 3, 2, 3, 5])
    draws = bootstrap_draws(cells, macro_recall, resamples=2000)
    # Of classes 0, 1 and 2 with 4, 5 and 1 clusters at least one is missing.
    missing = (6**10 + 5**10 + 9**10 - 1 - 5**10 - 4**10) / 10**10
    spread = 4 * np.sqrt(missing * (1 - missing) / 2000)
    assert len(draws) / 2000 == pytest.approx(1 - missing, abs=spread)
    assert not np.isnan(draws).any()
    nothing = lambda counts: np.where(counts[:, 1] > 1, 0.5, np.nan)  # noqa: E731
    with pytest.raises(ValueError, match=r"\d+ of 200 resamples have nothing to score"):
        bootstrap_metric(np.array([0, 0, 0, 1]), nothing, resamples=200)


def test_a_metric_without_clusters_is_an_error():
    with pytest.raises(ValueError, match="no clusters"):
        bootstrap_metric(np.zeros(0, int), macro_recall, resamples=10)


def test_the_interval_of_macro_recall_covers_the_truth():
    rng = np.random.default_rng(0)
    truth, trials, covered = np.array([0.3, 0.6, 0.8]), 300, 0
    for trial in range(trials):
        labels = rng.integers(0, 3, 300)
        cells = 2 * labels + (rng.random(300) < truth[labels])
        low, high = bootstrap_metric(cells, macro_recall, resamples=300, seed=trial)
        covered += low <= truth.mean() <= high
    # 0.94 is usual of 300 samples and 300 draws; four standard errors of 0.0137 about it.
    assert 0.885 <= covered / trials <= 0.995


def test_clusters_not_samples_decide_the_width():
    # Ten copies of every sample: as one cluster they tell no more than one.
    rng = np.random.default_rng(0)
    hits = (rng.random(100) < 0.5).astype(int)
    share = lambda counts: counts[:, 1] / counts.sum(1)  # noqa: E731
    widths = [
        np.diff(bootstrap_metric(cells, share, resamples=2000))[0]
        for cells in (hits, np.repeat(hits, 10))
    ]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(10), rel=0.15)


def test_noise_floor_by_hand():
    floor = noise_floor(np.array([0.5, 0.7]))
    deviation = 0.2 / np.sqrt(2)
    assert floor.runs == 2
    assert floor.standard_deviation == pytest.approx(deviation)
    # Tables: chi-square with one degree of freedom, 97.5 % 5.0239, 2.5 % 0.00098207; t 12.706.
    assert floor.low == pytest.approx(deviation / np.sqrt(5.0239), rel=1e-4)
    assert floor.high == pytest.approx(deviation / np.sqrt(0.00098207), rel=1e-4)
    assert floor.smallest_difference == pytest.approx(12.706 * 0.2, rel=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95]))
def test_noise_floor_is_that_of_the_distributions(scores, coverage):
    from scipy import stats

    floor = noise_floor(np.array(scores), coverage=coverage)
    freedom, deviation = len(scores) - 1, np.std(scores, ddof=1)
    low, high = stats.chi2.interval(coverage, freedom)
    assert floor.low == pytest.approx(deviation * np.sqrt(freedom / high))
    assert floor.high == pytest.approx(deviation * np.sqrt(freedom / low))
    quantile = stats.t.ppf((1 + coverage) / 2, freedom)
    assert floor.smallest_difference == pytest.approx(quantile * np.sqrt(2) * deviation)


@pytest.mark.parametrize("runs", [2, 3, 6])
def test_noise_stays_below_its_floor_as_often_as_it_says(runs):
    scores = np.random.default_rng(runs).normal(size=(2000, runs + 2))
    floors = [noise_floor(row[:runs], coverage=0.9) for row in scores]
    apart = abs(scores[:, -1] - scores[:, -2])
    below = np.mean(apart <= [f.smallest_difference for f in floors])
    inside = np.mean([f.low <= 1 <= f.high for f in floors])
    # Four standard errors of a share of 0.9 in 2,000.
    assert abs(below - 0.9) < 4 * np.sqrt(0.09 / 2000)
    assert abs(inside - 0.9) < 4 * np.sqrt(0.09 / 2000)


def test_noise_of_one_run_or_of_no_number_is_an_error():
    with pytest.raises(ValueError, match="there is 1"):
        noise_floor(np.array([0.5]))
    with pytest.raises(ValueError, match="not finite"):
        noise_floor(np.array([0.5, np.nan]))
