import itertools

from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.concept_families import NEAR, Family, bits_of, merge_families, merge_sets

MEMBERS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.frozensets(st.sampled_from([f"s{n}" for n in range(24)])),
    max_size=12,
)


def jaccard(one, other):
    return len(one & other) / len(one | other)


@given(MEMBERS, st.integers(1, 8))
def test_families_are_far_apart_and_share_out_the_frequent_words(members, least):
    families = merge_families(members, least=least)
    words = [word for family in families for word in family.words]
    assert sorted(words) == sorted(w for w, found in members.items() if len(found) >= least)
    for family in families:
        assert set(family.members) == set().union(*(members[word] for word in family.words))
        assert list(family.members) == sorted(family.members)
        assert len(members[family.words[0]]) == max(len(members[word]) for word in family.words)
    for one, other in itertools.combinations(families, 2):
        assert jaccard(set(one.members), set(other.members)) <= NEAR
    sizes = [len(family.members) for family in families]
    assert sizes == sorted(sizes, reverse=True)


@given(MEMBERS, st.randoms())
def test_the_order_of_the_words_does_not_matter(members, random):
    shuffled = list(members.items())
    random.shuffle(shuffled)
    assert merge_families(dict(shuffled), least=2) == merge_families(members, least=2)


def test_equal_sets_are_one_and_the_border_is_not_crossed():
    ten = frozenset(map(str, range(10)))
    nineteen = frozenset(map(str, range(100, 119)))
    members = {
        "kitty": ten,
        "cat": ten,
        "nine of ten": ten - {"0"},  # Jaccard 0.9 exactly: not more
        "long": nineteen,
        "nearly": nineteen | {"x"},  # 0.95
    }
    assert merge_families(members, least=8) == [
        Family(("nearly", "long"), tuple(sorted(nineteen | {"x"}))),
        Family(("cat", "kitty"), tuple(sorted(ten))),
        Family(("nine of ten",), tuple(sorted(ten - {"0"}))),
    ]


def test_a_family_that_grew_is_compared_again():
    """b is not near to a (93 of 107), and c only then makes it so: 98 of 107."""
    a, c = set(range(100)), set(range(5, 105))
    b = set(range(7, 105)) | {200, 201}
    assert jaccard(a, b) < NEAR < jaccard(a, c)
    assert jaccard(a | c, b) > NEAR
    merged = merge_sets({w: bits_of(s, 210) for w, s in {"a": a, "b": b, "c": c}.items()}, 1)
    assert merged == [(("a", "c", "b"), bits_of(a | b | c, 210))]
