import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.tokenizers.merges import (
    FIRST_MERGE,
    MergeTable,
    apply_merges,
    byte_order,
    byte_symbols,
    merges_digest,
)


def test_symbols_and_order_are_those_of_the_definition(bpe):
    symbols = byte_symbols()
    assert sorted(byte_order()) == list(range(256))
    assert [symbols[byte] for byte in range(256)] == [
        bpe.symbols(bytes([byte, 65]))[0] for byte in range(256)
    ]
    # Visible ones first, each group in the order of the bytes.
    assert sorted(byte_order()[:188]) == list(byte_order()[:188])
    assert sorted(byte_order()[188:]) == list(byte_order()[188:])


def test_a_word_is_what_the_definition_makes_of_it(bpe, merges):
    table = MergeTable(merges)
    for word in {word for text in bpe.captions for word in text.split()} | {"squarecircle", "é"}:
        expected = bpe.naive_bpe(bpe.symbols(word.encode()), merges)
        assert table.encode(word.encode()) == [table.ids[symbol] for symbol in expected], word


@settings(deadline=None)
@given(st.data())
def test_any_word_under_any_merges_is_what_the_definition_makes_of_it(bpe, data):
    """Few letters make overlaps and ties; shuffled merges come before those of their parts."""
    letters = st.sampled_from("ab")
    corpus = data.draw(st.lists(st.text(letters, min_size=1, max_size=12), min_size=1, max_size=6))
    merges = bpe.learn(corpus, 12)
    ranks = data.draw(st.permutations(range(len(merges))))
    word = data.draw(st.text(letters, min_size=1, max_size=40)).encode()
    table = MergeTable(merges)
    names = {i: name for name, i in table.ids.items()}
    # In the learnt order, and in one where a merge may outrank another that only now is possible.
    assert [names[i] for i in table.encode(word)] == list(bpe.naive_bpe(bpe.symbols(word), merges))
    shuffled = [merges[rank] for rank in ranks]
    numbers = {name: i for name, i in table.ids.items() if i < FIRST_MERGE}
    numbers |= {"".join(pair): FIRST_MERGE + rank for rank, pair in enumerate(shuffled)}
    by_rank = {(numbers[a], numbers[b]): rank for rank, (a, b) in enumerate(shuffled)}
    got = apply_merges([numbers[symbol] for symbol in bpe.symbols(word)], by_rank)
    expected = bpe.naive_bpe(bpe.symbols(word), shuffled)
    assert got == [numbers[symbol] for symbol in expected]


def test_overlaps_merge_from_the_left():
    assert apply_merges([7] * 5, {(7, 7): 0}) == [512, 512, 7]
    assert apply_merges([7] * 5, {(7, 7): 0, (512, 512): 1}) == [513, 7]
    assert apply_merges([1], {}) == [1]


def test_all_of_a_rank_merge_before_a_better_one_that_becomes_possible():
    assert apply_merges([1, 2, 1, 2], {(513, 1): 0, (1, 2): 1}) == [513, 513]
    assert apply_merges([1, 2, 1, 3], {(513, 1): 0, (1, 2): 1}) == [512, 3]


def test_a_very_long_word_takes_no_quadratic_time():
    ranks = {(7, 7): 0, (512, 512): 1, (513, 513): 2, (514, 514): 3}
    start = time.process_time()
    assert apply_merges([7] * 160_000, ranks) == [515] * 10_000
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "merges",
    [[("ab", "c")], [("a", "b"), ("a", "b")], [("a", "b"), ("", "ab")], [("a", "</w>")]],
    ids=["unknown part", "twice", "empty part", "the mark alone"],
)
def test_what_is_no_vocabulary_is_an_error(merges):
    with pytest.raises(UserError, match=r"merge \d of the vocabulary.*'huggingface'"):
        MergeTable(merges)


def test_the_hash_is_that_of_the_lines(merges):
    table = MergeTable(merges)
    assert table.digest() == merges_digest([f"{a} {b}" for a, b in merges])
    assert table.digest() != MergeTable(merges[:-1]).digest()
