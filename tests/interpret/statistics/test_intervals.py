import numpy as np
import pytest
from scipy import stats

from clipjax.interpret.statistics.intervals import (
    bootstrap_auroc_interval,
    delong_interval,
    delong_variance,
)


def data(n_on=12, n_off=40, seed=0, units=3, ties=False):
    rng = np.random.default_rng(seed)
    positive = rng.permutation(n_on + n_off) < n_on
    values = rng.normal(size=(n_on + n_off, units)) + positive[:, None]
    return (np.maximum(np.round(values, 1), 0) if ties else values), positive


@pytest.mark.parametrize("ties", [False, True])
def test_the_variance_is_that_of_the_placements(ties):
    activations, positive = data(ties=ties)
    auroc, variance = delong_variance(activations, positive)
    for u in range(3):
        on, off = activations[positive, u], activations[~positive, u]
        wins = (on[:, None] > off) + (on[:, None] == off) / 2
        assert auroc[u] == pytest.approx(wins.mean(), rel=1e-12)
        by_hand = wins.mean(axis=1).var(ddof=1) / 12 + wins.mean(axis=0).var(ddof=1) / 40
        assert variance[u] == pytest.approx(by_hand, rel=1e-10)


def test_plain_intervals_are_normal_and_cut():
    activations, positive = data()
    auroc, variance = delong_variance(activations, positive)
    low, high = delong_interval(activations, positive, scale="plain", coverage=0.9)
    reach = stats.norm.ppf(0.95) * np.sqrt(variance)
    np.testing.assert_allclose(low, auroc - reach)
    np.testing.assert_allclose(high, np.minimum(1, auroc + reach))


def test_logit_intervals_lie_inside_and_mirror():
    activations, positive = data(ties=True)
    auroc, _ = delong_variance(activations, positive)
    low, high = delong_interval(activations, positive)
    assert ((low > 0) & (low < auroc) & (auroc < high) & (high < 1)).all()
    mirrored = delong_interval(-activations, positive)
    np.testing.assert_allclose(mirrored, [1 - high, 1 - low])


@pytest.mark.parametrize("scale", ["logit", "plain"])
def test_they_cover_as_often_as_they_say(scale):
    """Normal with d' = 1: the AUROC is Phi(1 / sqrt 2). 3,000 units are 3,000 repetitions."""
    truth = stats.norm.cdf(np.sqrt(0.5))
    activations, positive = data(n_on=20, n_off=60, units=3_000, seed=1)
    low, high = delong_interval(activations, positive, scale=scale)
    covered = ((low <= truth) & (truth <= high)).mean()
    # The plain one is known to cover too seldom with 20 positives.
    assert abs(covered - 0.95) < (0.02 if scale == "logit" else 0.035)


def test_separation_is_not_certainty():
    activations = np.arange(30.0)[:, None] * [1, -1, 0]
    positive = np.arange(30) >= 20
    low, high = delong_interval(activations, positive)
    assert high[0] == 1
    assert 0.7 < low[0] < 0.95
    assert low[1] == 0
    assert high[1] == pytest.approx(1 - low[0])
    few, _ = delong_interval(activations[17:], positive[17:])
    assert few[0] < low[0]
    # A constant unit is at 1/2, and nothing is known of what it would be with variance.
    assert (low[2], high[2]) == (0, 1)
    # By Newcombe's equation: at the bound, 1 lies 1.96 deviations away.
    a, star, z = low[0], 14.0, stats.norm.ppf(0.975)
    variance = a * (1 - a) * (1 + star * (1 - a) / (2 - a) + star * a / (1 + a)) / 200
    assert (1 - a) ** 2 == pytest.approx(z**2 * variance, rel=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_the_bootstrap_is_its_definition_up_to_resampling(ties):
    activations, positive = data(n_on=30, n_off=90, ties=ties)
    ours = bootstrap_auroc_interval(activations[:, 0], positive, resamples=4_000)
    rng = np.random.default_rng(5)
    draws = []
    for _ in range(1_500):
        drawn = rng.integers(0, 120, 120)
        on, off = activations[drawn][positive[drawn], 0], activations[drawn][~positive[drawn], 0]
        draws.append(stats.mannwhitneyu(on, off).statistic / (len(on) * len(off)))
    # A tail's standard error is sqrt(.025 * .975 / 1,500) / density = .07 deviations; four of it.
    np.testing.assert_allclose(ours, np.quantile(draws, [0.025, 0.975]), atol=0.28 * np.std(draws))
    low, high = delong_interval(activations[:, :1], positive)
    np.testing.assert_allclose(ours, [low[0], high[0]], atol=0.03)


def test_the_highest_activation_may_be_a_negative():
    activations, positive = np.array([1.0, 2, 3, 4]), np.array([True, True, False, False])
    assert bootstrap_auroc_interval(activations, positive, resamples=200) == (0, 0)


def test_an_interval_needs_two_of_either():
    with pytest.raises(ValueError, match="1 positives and 3 negatives"):
        delong_interval(np.zeros((4, 1)), np.arange(4) == 0)
