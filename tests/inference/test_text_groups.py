"""Every text once, long enough, in few lengths."""

import collections

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipjax.inference.text_groups import text_batches

lengths = st.lists(st.integers(1, 77), max_size=60)


@given(lengths, st.integers(1, 9), st.sets(st.sampled_from([8, 16, 24, 40, 77]), max_size=3))
def test_every_text_is_in_one_batch_that_is_long_enough(needed, batch_size, compiled):
    batches = list(
        text_batches(
            np.array(needed, np.int64),
            context_length=77,
            batch_size=batch_size,
            compiled=compiled,
        )
    )
    seen = collections.Counter(text for batch in batches for text in batch.texts.tolist())
    assert seen == collections.Counter(range(len(needed)))
    assert len(batches) == -(-len(needed) // batch_size)
    for batch in batches:
        assert len(batch.texts) <= batch_size
        assert batch.length == 77 or batch.length % 8 == 0
        assert max(needed[text] for text in batch.texts) <= batch.length <= 77
    found = {batch.length for batch in batches}
    assert len(found) <= 3
    longest = max(needed, default=1)
    assert all(n < min(longest + 8, 78) or n in compiled for n in found)


def lengths_of(needed, batch_size=1, compiled=()):
    batches = text_batches(
        np.array(needed), context_length=77, batch_size=batch_size, compiled=compiled
    )
    return collections.Counter(batch.length for batch in batches)


def test_a_few_texts_are_one_program_and_many_are_more():
    assert lengths_of([5, 70]) == {72: 2}
    assert lengths_of([5] * 100 + [70]) == {8: 100, 72: 1}
    assert lengths_of([5] * 100 + [30] * 100 + [77] * 100) == {8: 100, 32: 100, 77: 100}
    assert lengths_of([5] * 99 + [20] * 99 + [30] * 99 + [77] * 99) == {8: 99, 32: 198, 77: 99}


def test_a_program_that_is_there_is_used_rather_than_a_new_one():
    assert lengths_of([5, 7], compiled=[16]) == {16: 2}
    assert lengths_of([5] * 100, compiled=[16]) == {8: 100}  # it pays
    assert lengths_of([20], compiled=[16, 77]) == {77: 1}


def test_whole_rows_stay_in_their_order():
    """Where nothing may be cut, nothing is moved either."""
    batches = text_batches(np.full(7, 77), context_length=77, batch_size=3)
    assert [batch.texts.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
