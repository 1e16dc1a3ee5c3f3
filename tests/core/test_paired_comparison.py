import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clipjax.core.paired_comparison import (
    benjamini_hochberg,
    difference_of_draws,
    holm,
    paired_bootstrap,
    paired_draws,
    paired_permutation,
)


def share(counts):
    """Accuracy: cell 0 is a miss, cell 1 a hit; there may be no hits at all."""
    return counts[:, 1:].sum(1) / counts.sum(1)


def compared(a, b, **options):
    return paired_bootstrap(a, share, b, share, **{"resamples": 500, **options})


def models(rng, n, same, accuracy_a=0.6, accuracy_b=0.6):
    """Two models that see `same` of the samples alike."""
    a, b, alike = rng.random(n), rng.random(n), rng.random(n) < same
    b = np.where(alike, a, b)
    return (a < accuracy_a).astype(int), (b < accuracy_b).astype(int)


def test_the_bootstrap_is_that_of_the_differences():
    a, b = models(np.random.default_rng(0), 400, 0.7, 0.5, 0.55)
    found = compared(a, b, resamples=8000)
    assert found.value == pytest.approx(b.mean() - a.mean(), abs=1e-15)
    half = 1.96 * (b - a).std() / np.sqrt(400)
    # The 2.5 % quantile of 8,000 normal draws has a standard error of 0.03 sigma; a grid step more.
    atol = 5 * 0.03 * half / 1.96 + 1 / 400
    assert found.low == pytest.approx(found.value - half, abs=atol)
    assert found.high == pytest.approx(found.value + half, abs=atol)


def test_pairing_makes_the_interval_narrower_than_two_intervals():
    a, b = models(np.random.default_rng(0), 500, 0.9)
    paired = compared(a, b, resamples=2000)
    apart = compared(a, np.random.default_rng(1).permutation(b), resamples=2000)
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


_hits = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=25)


@settings(deadline=None, max_examples=40)
@given(_hits, st.integers(1, 8), st.randoms())
def test_swapping_the_models_flips_the_sign(hits, repeats, random):
    hits = hits * repeats
    a, b = np.array(hits).T
    one, other = compared(a, b), compared(b, a)
    draws = paired_draws(a, share, b, share, resamples=100)
    assert -1 <= one.low <= one.high <= 1
    assert other.value == -one.value
    assert paired_permutation((b - a) * 1.0).p_value == paired_permutation((a - b) * 1.0).p_value
    assert difference_of_draws(one.value, draws).p_value == pytest.approx(
        difference_of_draws(-one.value, -draws).p_value
    )
    flipped = difference_of_draws(-one.value, -draws)
    straight = difference_of_draws(one.value, draws)
    assert (flipped.low, flipped.high) == pytest.approx((-straight.high, -straight.low), abs=1e-12)
    a, b = np.array(random.sample(hits, len(hits))).T
    assert compared(a, b) == one


def test_swapping_the_models_sees_the_same_draws_up_to_noise():
    a, b = models(np.random.default_rng(0), 300, 0.5, 0.5, 0.6)
    one, other = compared(a, b, resamples=4000), compared(b, a, resamples=4000)
    width = one.high - one.low
    # Quantiles of 4,000 draws: standard error 0.0423 sigma, which is a quarter of the width; one
    # step of the grid more.
    atol = 5 * np.sqrt(2) * 0.0423 * width / 4 + 1 / 300
    assert (-other.high, -other.low) == pytest.approx((one.low, one.high), abs=atol)


def test_equal_models_are_never_different():
    a = (np.arange(50) % 3 > 0).astype(int)
    renumbered = 1 - a  # the same predictions, other cells
    found = paired_bootstrap(a, share, renumbered, lambda c: c[:, 0] / c.sum(1), resamples=300)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-15)
    assert found.p_value == 1
    assert paired_permutation(np.zeros(9)).p_value == 1


def test_a_p_value_is_the_level_at_which_the_interval_meets_zero():
    draws = np.random.default_rng(0).normal(0.8, 0.5, size=1999)
    found = difference_of_draws(0.8, draws)
    wider = difference_of_draws(0.8, draws, coverage=1 - found.p_value + 0.004)
    narrower = difference_of_draws(0.8, draws, coverage=1 - found.p_value - 0.004)
    assert wider.low < 0 < narrower.low
    # Phi(-1.6) twice is 0.1096; four standard errors of half of it in 1,999 draws, twice.
    assert found.p_value == pytest.approx(0.1096, abs=8 * np.sqrt(0.0548 / 1999))
    assert difference_of_draws(1.0, np.ones(99)).p_value == 0.02  # the least of 99 draws
    assert difference_of_draws(-1.0, -np.ones(99)).p_value == 0.02


def share_below(p_values, level):
    return np.mean(np.asarray(p_values) <= level)


def test_p_values_are_uniform_if_the_models_are_equal():
    rng, trials = np.random.default_rng(3), 500
    bootstrap, exact, drawn = [], [], []
    for trial in range(trials):
        a, b = models(rng, 300, 0.5)
        bootstrap.append(compared(a, b, resamples=399, seed=trial).p_value)
        exact.append(paired_permutation((b - a) * 1.0).p_value)
        skewed = rng.laplace(size=40) ** 3
        drawn.append(paired_permutation(skewed, resamples=199, seed=trial).p_value)
    for level in (0.05, 0.2, 0.5):
        error = 4 * np.sqrt(level * (1 - level) / trials)
        # Of about 70 that differ, a step of the binomial is 10 % of the level or less at the
        # centre: exact tests reject less often, never more. The bootstrap is approximate.
        assert share_below(exact, level) <= level + error
        assert share_below(exact, level) >= 0.6 * level - error
        assert abs(share_below(bootstrap, level) - level) <= error + 0.25 * level
        assert abs(share_below(drawn, level) - level) <= error


def test_a_real_difference_is_found():
    a, b = models(np.random.default_rng(0), 2000, 0.8, 0.6, 0.65)
    assert compared(a, b, resamples=1999).p_value <= 0.01
    assert paired_permutation((b - a) * 1.0).p_value < 1e-4


def test_the_interval_of_a_difference_covers_the_truth():
    rng, trials, covered = np.random.default_rng(5), 400, 0
    for trial in range(trials):
        a, b = models(rng, 250, 0.5, 0.6, 0.7)
        found = compared(a, b, resamples=300, seed=trial)
        covered += found.low <= 0.1 <= found.high
    # 0.94 is usual of 300 draws; four standard errors of 0.0119 about it.
    assert 0.892 <= covered / trials <= 0.988


def by_enumeration(differences):
    sums = [
        np.dot(signs, differences) for signs in itertools.product([-1, 1], repeat=len(differences))
    ]
    return np.mean(abs(np.array(sums)) >= abs(np.sum(differences)) - 1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([-1, -0.6, -0.2, 0, 0.2, 0.4, 1]), min_size=1, max_size=9))
def test_few_differences_are_enumerated(differences):
    found = paired_permutation(np.array(differences, float))
    assert found.method in ("binomial", "all signs")
    assert found.p_value == pytest.approx(by_enumeration(differences), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 9), st.sampled_from([1.0, 0.5]))
def test_hits_and_misses_are_mcnemar(won, lost, equal, size):
    differences = size * np.repeat([1.0, -1.0, 0.0], [won, lost, equal])
    found = paired_permutation(differences)
    assert found.method == "binomial"
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1
    assert found.p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("decimals", [0, 3], ids=["few sizes", "many sizes"])
def test_many_differences_are_drawn(decimals):
    rng = np.random.default_rng(0)
    differences = np.round(rng.normal(0.15, 1, 60), decimals)
    found = paired_permutation(differences, resamples=20_000)
    expected = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=20_000, rng=1
    ).pvalue
    assert found.method == "random signs"
    # Both are shares of 20,000 draws.
    assert found.p_value == pytest.approx(expected, abs=5 * np.sqrt(2 * 0.25 / 20_000))
    assert found == paired_permutation(rng.permutation(differences), resamples=20_000)
    assert found == paired_permutation(-differences, resamples=20_000)
    far = paired_permutation(np.linspace(1, 2, 100), resamples=99)
    assert far.p_value == 1 / 100


def test_drawn_signs_agree_with_all_signs():
    # 16 differences are too many to enumerate there; the definition is done here.
    differences = np.random.default_rng(2).normal(0.3, 1, 16)
    signs = 2 * (np.arange(2**16)[:, None] >> np.arange(16) & 1) - 1
    expected = (abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    found = paired_permutation(differences, resamples=20_000)
    assert found.p_value == pytest.approx(expected, abs=5 * np.sqrt(expected / 20_000) + 1e-4)


@pytest.mark.parametrize(("adjust", "name"), [(holm, "holm"), (benjamini_hochberg, "bh")])
def test_adjusted_by_hand(adjust, name):
    # Holm: 4 x 0.005, 3 x 0.011, 2 x 0.02, 1 x 0.04; Benjamini-Hochberg: 4/1, 4/2, 4/3, 4/4.
    p_values = np.array([0.02, 0.005, 0.04, 0.011])
    expected = {"holm": [0.04, 0.02, 0.04, 0.033], "bh": [0.08 / 3, 0.02, 0.04, 0.022]}[name]
    assert adjust(p_values) == pytest.approx(expected)


_p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(_p_values, st.floats(0.01, 0.5))
def test_holm_rejects_what_its_steps_reject(p_values, alpha):
    """The procedure itself: the least p against alpha / m, the next against alpha / (m - 1) ..."""
    order, rejected = np.argsort(p_values, kind="stable"), np.zeros(len(p_values), bool)
    for step, i in enumerate(order):
        if p_values[i] > alpha / (len(p_values) - step):
            break
        rejected[i] = True
    adjusted = holm(np.array(p_values))
    clear = abs(adjusted - alpha) > 1e-12
    np.testing.assert_array_equal((adjusted <= alpha)[clear], rejected[clear])


@settings(deadline=None, max_examples=60)
@given(_p_values)
def test_benjamini_hochberg_is_scipys(p_values):
    expected = stats.false_discovery_control(np.array(p_values), method="bh")
    np.testing.assert_allclose(benjamini_hochberg(np.array(p_values)), expected, rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(_p_values, st.floats(0, 1), st.randoms())
def test_corrections_only_ever_raise_and_keep_the_order(p_values, another, random):
    p = np.array(p_values)
    h, bh = holm(p), benjamini_hochberg(p)
    assert (p <= bh + 1e-15).all()
    assert (bh <= h + 1e-12).all()
    assert (h <= 1).all()
    order = np.argsort(p)
    assert (np.diff(h[order]) >= 0).all()
    assert (np.diff(bh[order]) >= 0).all()
    # One more task never lowers what Holm says of the others.
    assert (holm(np.append(p, another))[:-1] >= h).all()
    shuffle = np.array(random.sample(range(len(p)), len(p)))
    np.testing.assert_array_equal(holm(p[shuffle]), h[shuffle])
    np.testing.assert_array_equal(benjamini_hochberg(p[shuffle]), bh[shuffle])


def test_of_true_nulls_alone_holm_rejects_one_in_twenty_times():
    rng, trials = np.random.default_rng(0), 1000
    found = np.mean([holm(rng.random(20)).min() <= 0.05 for _ in range(trials)])
    assert abs(found - (1 - (1 - 0.05 / 20) ** 20)) < 4 * np.sqrt(0.05 * 0.95 / trials)


def test_what_cannot_be_tested_is_an_error():
    with pytest.raises(ValueError, match="no clusters"):
        paired_draws(np.zeros(0, int), share, np.zeros(0, int), share, resamples=9)
    with pytest.raises(ValueError, match="no differences"):
        paired_permutation(np.zeros(0))
    with pytest.raises(ValueError, match="not finite"):
        paired_permutation(np.array([0.5, np.nan]))
