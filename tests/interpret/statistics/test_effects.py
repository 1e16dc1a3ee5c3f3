"""What the loss of a unit does: hand values, leave-one-out by loops, draws of units."""

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.interpret.statistics.effects import among_others, concept_drops, effect_ratio


def test_a_drop_by_hand():
    """4 stimuli, 2 of the concept: their logits fall by 3 and 1, the others' by 1 and 0."""
    drops = concept_drops(np.array([[4.0]]), np.array([[5.0]]), np.array([2.0]), 4.0)
    assert drops.tolist() == [[2.0 - 0.5]]
    nowhere = concept_drops(np.zeros((1, 2)), np.ones((1, 2)), np.array([0.0, 4.0]), 4.0)
    assert np.isnan(nowhere).all()


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, (7, 2), elements=st.floats(-5, 5, width=16)))
def test_each_unit_is_compared_with_all_the_others(values):
    found = among_others(values)
    for unit in range(7):
        others = np.delete(values, unit, axis=0)
        spread = others.std(axis=0, ddof=1)
        clear = spread > 1e-6
        wanted = (values[unit] - others.mean(axis=0))[clear] / spread[clear]
        # The spread comes from squares of numbers up to 5: 1e-6 of it survives their rounding.
        np.testing.assert_allclose(found[unit][clear], wanted, rtol=1e-3, atol=1e-6)


def test_one_large_effect_does_not_hide_itself():
    values = np.zeros((5, 1))
    values[:, 0] = [10, 0.1, -0.1, 0.1, -0.1]
    assert among_others(values)[0, 0] > 50
    assert np.isnan(among_others(values[:2])).all()


def test_a_ratio_by_hand():
    drops = np.array(
        [[6.0, np.nan, 9.0], [2.0, np.nan, 8.0], [1.0, np.nan, 7.0], [-3.0, np.nan, 7]]
    )
    found = np.zeros((4, 3), bool)
    found[0, 0] = found[0, 1] = True  # the second concept cannot be told here
    told = effect_ratio(drops, found, resamples=500)
    assert (told.pairs, told.others, told.found, told.positive) == (1, 3, 6.0, 1.0)
    assert told.other == 0.0
    assert told.other_size == 2.0
    assert told.ratio == 3.0
    assert told.low <= 3.0 <= told.high


def test_nothing_found_or_nothing_to_compare_with_is_no_ratio():
    drops = np.ones((3, 2))
    assert effect_ratio(drops, np.zeros((3, 2), bool)) is None
    assert effect_ratio(drops, np.ones((3, 2), bool)) is None


def test_the_interval_holds_the_ratio_of_the_population():
    """Effects of found units are 5 times those of others: the interval says so 19 times of 20."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        drops = rng.exponential(1.0, (60, 4))
        found = np.zeros((60, 4), bool)
        found[np.arange(20), rng.integers(0, 4, 20)] = True
        drops[found] *= 5
        told = effect_ratio(drops, found, resamples=400, seed=seed)
        held += told.low <= 5 <= told.high
    # A percentile interval of 20 units covers a little less than 95 %; binomial(40, .9) >= 31.
    assert held >= 31


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_units_and_concepts_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    drops, found = rng.normal(size=(12, 3)), rng.random((12, 3)) < 0.15
    found[0, 0], found[1] = True, False
    rows, columns = rng.permutation(12), rng.permutation(3)
    told = effect_ratio(drops, found, resamples=50)
    again = effect_ratio(drops[rows][:, columns], found[rows][:, columns], resamples=50)
    for field in ("pairs", "others", "found", "other", "other_size", "ratio", "positive"):
        np.testing.assert_allclose(getattr(again, field), getattr(told, field), rtol=1e-9)
