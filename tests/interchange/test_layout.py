import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.interchange.layout import Entry, Piece, query_and_key_value, same


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_a_piece_of_a_matrix_is_rows_of_it():
    """Thirds of [6, 4]: queries, then keys and values."""
    whole = numbers(6, 4)
    query, key_value = query_and_key_value("q", "kv", "attention")[:2]
    shapes = {"q/kernel": (4, 1, 2), "kv/kernel": (4, 2, 1, 2)}
    for entry in (query, key_value):
        assert entry.theirs == ("attention.in_proj_weight",)
        assert entry.their_shape(shapes[entry.ours]) == whole.shape
    np.testing.assert_array_equal(query.read([whole], (4, 1, 2))[:, 0], whole[:2].T)
    read = key_value.read([whole], (4, 2, 1, 2))
    np.testing.assert_array_equal(read[:, 0, 0], whole[2:4].T)
    np.testing.assert_array_equal(read[:, 1, 0], whole[4:].T)


def test_pieces_of_a_bias():
    whole = numbers(6)
    query, key_value = query_and_key_value("q", "kv", "attention")[2:]
    assert query.their_shape((1, 2)) == key_value.their_shape((2, 1, 2)) == (6,)
    np.testing.assert_array_equal(query.read([whole], (1, 2)), [[0, 1]])
    np.testing.assert_array_equal(key_value.read([whole], (2, 1, 2)), [[[2, 3]], [[4, 5]]])


def test_a_piece_of_a_scan_is_a_layer():
    entry = Entry(ours="a", theirs=("b",), piece=Piece(first=1, last=2, of=3, stacked=True))
    whole = numbers(3, 2, 4)
    assert entry.their_shape((2, 4)) == (3, 2, 4)
    np.testing.assert_array_equal(entry.read([whole], (2, 4)), whole[1])
    np.testing.assert_array_equal(entry.write(whole[1])[0], whole[1])


@given(
    cuts=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    stacked=st.booleans(),
    rows=st.integers(1, 3),
)
def test_pieces_make_up_the_whole(cuts, stacked, rows):
    """Whatever the parts are, those that are read and written again are the tensor."""
    cuts = [1] * len(cuts) if stacked else cuts
    of = sum(cuts)
    whole = numbers(*((of, rows, 2) if stacked else (of * rows, 2)))
    parts, first = [], 0
    for size in cuts:
        piece = Piece(first=first, last=first + size, of=of, stacked=stacked)
        first += size
        entry = Entry(ours="a", theirs=("b",), piece=piece)
        part = (rows, 2) if stacked else (size * rows, 2)
        assert entry.their_shape(part) == whole.shape
        parts += entry.write(entry.read([whole], part))
    np.testing.assert_array_equal((np.stack if stacked else np.concatenate)(parts), whole)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scalar_keeps_its_shape(shape):
    entry = same("log_logit_scale", "logit_scale", shape=(1,) if shape else None)
    (tensor,) = entry.write(np.array(2.5, np.float32))
    assert tensor.shape == entry.their_shape(()) == shape
    assert entry.read([tensor], ()) == np.float32(2.5)
