"""Which samples are run together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.interpret.scan_order import ScanOrder


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 5))
def test_every_view_once_and_in_a_row(views, size, seed):
    owner = np.repeat(np.arange(len(views)), views)
    order = ScanOrder(owner, size, seed=seed, facet="word")
    batches = [order[number] for number in range(order.batches)]
    samples = np.concatenate([batch.samples for batch in batches])
    there = samples >= 0
    assert sorted(samples[there]) == list(range(len(owner)))
    assert there[: len(owner)].all()
    assert sum(batch.count for batch in batches) == len(owner)
    rows = np.concatenate([batch.rows for batch in batches])
    begins = np.concatenate([batch.begins for batch in batches])
    assert sorted(rows[rows >= 0]) == list(range(len(views)))
    # A stimulus begins, goes on, and ends with its row, which no other one comes between.
    own = owner[samples[there]]
    np.testing.assert_array_equal(begins[there], np.append(True, own[1:] != own[:-1]))
    np.testing.assert_array_equal(rows[there] >= 0, np.append(own[1:] != own[:-1], True))
    found = np.concatenate([batch.views for batch in batches])
    np.testing.assert_array_equal(found[there], np.array(views)[own])
    with pytest.raises(IndexError):
        order[order.batches]


def test_first_stimuli_are_a_fair_sample():
    """Half of the first tenth comes from each half; 6 standard deviations of 100 draws are 30."""
    order = ScanOrder(np.arange(1000), 100, seed=0, facet="photo")
    assert abs((order[0].rows < 500).sum() - 50) < 30
    assert (order[0].rows != ScanOrder(np.arange(1000), 100, seed=1, facet="photo")[0].rows).any()
    assert (order[0].rows != ScanOrder(np.arange(1000), 100, seed=0, facet="edges")[0].rows).any()


@pytest.mark.parametrize("owner", [[], [0, 2], [1, 0]])
def test_refuses_what_is_no_facet(owner):
    with pytest.raises(ValueError, match="owner"):
        ScanOrder(np.array(owner, np.int64), 4, seed=0)
