import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.tokenizers.frame import frame


@given(st.lists(st.integers(0, 97), max_size=40), st.integers(2, 20))
def test_a_text_is_start_ids_end_and_zeros(ids, context_length):
    out = frame(ids, context_length, 100)
    kept = min(len(ids), context_length - 2)
    assert out.dtype == np.int32
    assert out.tolist() == [98, *ids[:kept], 99] + [0] * (context_length - kept - 2)


def test_a_cut_text_keeps_its_end():
    assert frame(range(50), 5, 100).tolist() == [98, 0, 1, 2, 99]
