import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipjax.data.mixture import Mixture

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=2, max_size=5).map(tuple)


def all_of(mixture, lane, count):
    places = np.arange(count)
    return mixture.sources(np.full(count, lane), places)


# A share of less than one place in 4,096: blocks of that length would give it -1 places at times.
RARE = (69.0, 99.625, 0.01171875, 28.8515625)


@settings(deadline=None, max_examples=25)
@given(WEIGHTS, st.integers(0, 2**63), st.integers(0, 50))
@example(RARE, 0, 0)
def test_after_every_block_each_source_has_its_share_to_within_one(weights, seed, lane):
    mixture = Mixture(weights, seed)
    which, _ = all_of(mixture, lane, mixture.block * 4)
    for block in range(1, 5):
        counts = np.bincount(which[: mixture.block * block], minlength=len(weights))
        expected = mixture.block * block * np.array(weights) / sum(weights)
        assert np.abs(counts - expected).max() <= 1 + 1e-6


def test_a_block_has_something_of_every_source():
    assert Mixture((1.0, 2.0, 100.0), 0).block == 4096
    assert Mixture((1.0, 4095.0), 0).block == 4096
    assert Mixture((1.0, 4097.0), 0).block == 8192
    assert Mixture((1.0, 1e8), 0).block == 2**27
    with pytest.raises(ValueError, match=r"the least must be 1\.9e-09 of their sum"):
        Mixture((1.0, 1e9), 0)


@settings(deadline=None, max_examples=25)
@given(WEIGHTS, st.integers(0, 2**63))
@example(RARE, 0)
def test_each_source_is_gone_through_in_order_without_gaps(weights, seed):
    mixture = Mixture(weights, seed)
    which, own = all_of(mixture, 2, mixture.block * 3)
    for source in range(len(weights)):
        mine = own[which == source]
        assert sorted(mine.tolist()) == list(range(len(mine)))


@settings(deadline=None, max_examples=25)
@given(WEIGHTS, st.integers(0, 2**63), st.integers(0, 10**9), st.integers(0, 60))
@example(RARE, 0, 3 * 10**8, 1)
def test_place_is_sources_backwards(weights, seed, place, lane):
    mixture = Mixture(weights, seed)
    which, own = mixture.sources(np.array([lane]), np.array([place]))
    assert mixture.place(lane, int(which[0]), int(own[0])) == place
    low, high = mixture.around(int(which[0]), place)
    assert low <= own[0] < high


def test_the_long_run_is_exact():
    """A third of 12.8 billion, to within one."""
    mixture = Mixture((1.0, 2.0), 0)
    places = 12_800_000_000 // 4096 * 4096
    assert abs(mixture.taken(0, places) - places / 3) <= 1
    assert mixture.taken(0, places) + mixture.taken(1, places) == places


def test_blocks_and_lanes_are_mixed_differently():
    mixture = Mixture((1.0, 1.0), 0)
    orders = {
        tuple(all_of(mixture, lane, 8192)[0][b : b + 64]) for lane in (0, 1) for b in (0, 4096)
    }
    assert len(orders) == 4


@pytest.mark.parametrize("source", [0, 1])
def test_neighbours_are_not_all_of_one_source(source):
    """Runs of one source in a fair mixture are short: 60 in a row have a chance below 1e-14."""
    which, _ = all_of(Mixture((1.0, 1.0), 7), 0, 4096 * 4)
    runs = np.diff(np.flatnonzero(which != source))
    assert runs.max() < 60
