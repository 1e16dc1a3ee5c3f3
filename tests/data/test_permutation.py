import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.permutation import permute, unpermute

SEEDS = st.integers(0, 2**64 - 1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), SEEDS, st.integers(0, 2**40))
def test_permute_is_a_permutation(n, seed, tweak):
    np.testing.assert_array_equal(np.sort(permute(np.arange(n), n, seed, tweak)), np.arange(n))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 2**40), SEEDS, st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_unpermute_goes_back_both_ways(n, seed, wanted):
    offsets = np.array(wanted) % n
    np.testing.assert_array_equal(unpermute(permute(offsets, n, seed, 9), n, seed, 9), offsets)
    np.testing.assert_array_equal(permute(unpermute(offsets, n, seed, 9), n, seed, 9), offsets)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 2**40), SEEDS, st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_a_place_does_not_depend_on_which_others_are_asked_for(n, seed, wanted):
    offsets = np.array(wanted) % n
    together = permute(offsets, n, seed, 3)
    alone = [permute(offsets[i : i + 1], n, seed, 3)[0] for i in range(len(offsets))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < n)).all()


def test_its_argument_is_left_alone():
    offsets = np.arange(10)
    permute(offsets, 10, 0, 0)
    unpermute(offsets, 10, 0, 0)
    assert offsets.tolist() == list(range(10))


def chi_squared(counts):
    """Returns the statistic and a limit of five standard deviations over its mean."""
    expected = counts.sum() / counts.size
    df = counts.size - 1
    return ((counts - expected) ** 2 / expected).sum(), df + 5 * np.sqrt(2 * df)


def test_places_are_uniform_for_every_part_of_the_data():
    """20 x 20 cells of (offset, place) for 100,000 examples.

    A permutation fixes the margins, which makes the statistic only smaller.
    """
    place = permute(np.arange(100_000), 100_000, 7, 0)
    statistic, limit = chi_squared(np.histogram2d(np.arange(100_000), place, bins=20)[0])
    assert statistic < limit


def test_neighbours_are_independent():
    """20 x 20 cells of (place, next place) for 100,000 examples."""
    place = permute(np.arange(100_000), 100_000, 8, 0)
    statistic, limit = chi_squared(np.histogram2d(place[:-1], place[1:], bins=20)[0])
    assert statistic < limit


def test_small_permutations_are_uniform_over_seeds_and_tweaks():
    """Each of 10 examples comes first equally often: 200 seeds x 20 tweaks."""
    first = [
        permute(np.array([0]), 10, seed, tweak)[0] for seed in range(200) for tweak in range(20)
    ]
    statistic, limit = chi_squared(np.bincount(first, minlength=10))
    assert statistic < limit
