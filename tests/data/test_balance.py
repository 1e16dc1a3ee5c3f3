"""Balancing against a plain reading of the paper's algorithm."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.balance import Balance, Matches, Metadata, sample_numbers

LETTERS = st.text("ab ,_.A\n", max_size=12)


def naive_words(text):
    """Words and signs, character by character."""
    out, word = [], ""
    for character in text.casefold():
        if character.isalnum() or character == "_":
            word += character
            continue
        out += [word] if word else []
        word = ""
        out += [character] if not character.isspace() else []
    return out + ([word] if word else [])


@given(entries=st.lists(LETTERS), caption=LETTERS)
def test_matching_against_a_scan(entries, caption):
    metadata = Metadata(entries)
    words = naive_words(caption)
    found = []
    for number, entry in enumerate(metadata.entries):
        wanted = naive_words(entry)
        starts = range(len(words) - len(wanted) + 1)
        if any(words[start : start + len(wanted)] == wanted for start in starts):
            found.append(number)
    assert metadata.find(caption) == found
    assert len({tuple(naive_words(e)) for e in entries} - {()}) == len(metadata)


@pytest.mark.parametrize(
    ("entry", "caption", "matches"),
    [
        ("art", "party", False),
        ("art", "Art!", True),
        ("dog cat", "dog, cat", False),
        ("dog cat", "a Dog\n  CAT.", True),
        ("U.S.", "the U.S. army", True),
        ("c++", "I like C++, you", True),
        ("straße", "STRASSE", True),
        ("a b c", "a b a b c", True),
        ("dog-house", "dog house", False),
    ],
)
def test_boundaries_of_words(entry, caption, matches):
    assert bool(Metadata([entry]).find(caption)) is matches


def test_case_can_matter():
    metadata = Metadata(["Turkey", "turkey", "turkey  "], match_case=True)
    assert metadata.entries == ("Turkey", "turkey")
    assert metadata.find("a turkey from Turkey") == [0, 1]
    assert metadata.find("TURKEY") == []
    assert len(Metadata(["Turkey", "turkey"])) == 1


def test_a_list_of_entries(tmp_path):
    path = tmp_path / "entries.txt"
    path.write_text("dog\n\n cat \r\nDog\n")
    assert Metadata.read(str(path)).entries == ("dog", "cat")
    path.write_text(" \n")
    with pytest.raises(UserError, match="holds no entry"):
        Metadata.read(str(path))
    path.write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="cannot be read"):
        Metadata.read(str(path))
    with pytest.raises(UserError, match=r"none\.txt: cannot be read \(No such file"):
        Metadata.read(str(tmp_path / "none.txt"))


ENTRIES = ["dog", "cat", "the", "a dog", "zebra"]
CAPTIONS = st.lists(
    st.one_of(st.none(), st.lists(st.sampled_from(["a", "the", "dog", "cat", "x"])).map(" ".join)),
    max_size=30,
)


@given(captions=CAPTIONS, cap=st.integers(1, 12), seed=st.integers(0, 2**63 - 1))
def test_keeping_against_a_loop_with_single_draws(captions, cap, seed):
    metadata = Metadata(ENTRIES)
    balance = Balance(metadata, cap, seed)
    matches = metadata.match(captions)
    found = [metadata.find(caption or "") for caption in captions]
    counts = np.zeros(len(ENTRIES), np.int64)
    for entry in itertools.chain(*found):
        counts[entry] += 1
    every = np.ones(len(captions), bool)
    assert balance.count(matches, every).tolist() == counts.tolist()
    numbers = sample_numbers(bytes(range(16)), [f"k{n}" for n in range(len(captions))])
    kept = balance.keep(matches, numbers, counts)
    for row, entries in enumerate(found):
        # One sample and one entry alone draw the same as among all others.
        alone = [
            balance.keep(
                Matches(np.array([1], np.int32), np.array([e], np.int32)), numbers[[row]], counts
            )[0]
            for e in entries
        ]
        assert kept[row] == any(alone)
        if any(counts[entry] <= cap for entry in entries):
            assert kept[row], "whatever has an entry of the tail is kept"


def test_the_share_that_is_kept_is_that_of_the_paper():
    """With two frequent entries: 1 - (1 - p)(1 - q), within five standard deviations."""
    n, metadata = 20_000, Metadata(["one", "two"])
    counts = np.array([40_000, 80_000])
    balance = Balance(metadata, 10_000, seed=7)
    numbers = sample_numbers(bytes(16), [str(k) for k in range(n)])
    single = Matches(np.ones(n, np.int32), np.zeros(n, np.int32))
    both = Matches(np.full(n, 2, np.int32), np.tile(np.array([0, 1], np.int32), n))
    for matches, p in ((single, 0.25), (both, 1 - 0.75 * 0.875)):
        share = balance.keep(matches, numbers, counts).mean()
        assert abs(share - p) < 5 * (p * (1 - p) / n) ** 0.5
    other = Balance(metadata, 10_000, seed=8).keep(both, numbers, counts)
    assert (other != balance.keep(both, numbers, counts)).mean() > 0.3


def test_a_new_entry_in_front_changes_no_draw_of_the_others():
    n = 500
    numbers = sample_numbers(bytes(16), [str(k) for k in range(n)])
    kept = []
    for entries in (["dog"], ["ant", "dog"]):
        metadata = Metadata(entries)
        matches = metadata.match(["a dog"] * n)
        counts = np.full(len(entries), 1000)
        kept.append(Balance(metadata, 300, seed=1).keep(matches, numbers, counts).tolist())
    assert kept[0] == kept[1]
    assert 0 < sum(kept[0]) < n


def test_numbers_of_samples_depend_on_the_shard():
    keys = [str(n) for n in range(1000)]
    one, other = (sample_numbers(bytes([n] * 16), keys) for n in (1, 2))
    assert len(np.unique(np.concatenate([one, other]))) == 2000
    assert (one == sample_numbers(bytes([1] * 16), keys)).all()


def test_figures_tell_head_from_tail():
    balance = Balance(Metadata(["a", "b", "c"]), 10)
    figures = balance.figures(np.array([100, 10, 0]), np.array([12, 9, 0]))
    assert figures == {
        "entries": 3,
        "cap": 10,
        "unmatched_entries": 1,
        "head_entries": 1,
        "tail_entries": 1,
        "head_matches": [100, 12],
        "tail_matches": [10, 9],
    }
