import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.concepts import (
    Concept,
    ConceptIndex,
    load_concepts,
    mine_concepts,
    named_concepts,
    read_captions,
    save_concepts,
)
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.words import STOP_WORDS, words_of
from clipjax.data.writers import Sample, write_shards

CATS = ["a cat on a mat", "Cat and dog.", "the CAT's hat; cat, cat", "teddy bear", "a teddy bear"]


def names(concepts):
    return [one.name for one in concepts]


def test_words_count_once_a_caption_and_stop_words_never():
    assert names(mine_concepts(CATS, least=3, most_share=0.6)) == ["cat"]
    assert names(mine_concepts(CATS, least=3, most_share=0.5)) == []
    assert names(mine_concepts(CATS, least=2, most_share=1.0)) == ["cat", "bear"]
    bear = mine_concepts(CATS, least=2, most_share=1.0)[1]
    assert bear == Concept("bear", "bear", ("bear", "teddy"))  # always together: one concept
    one = mine_concepts(CATS, least=1, most_share=1.0, limit=1, stop_words=["cat"])
    assert names(one) == ["a"] or names(one) == ["bear"]
    assert mine_concepts([], least=1) == []
    with pytest.raises(ValueError, match="least=0"):
        mine_concepts(CATS, least=0)


@given(
    st.lists(st.lists(st.sampled_from([*"abcd", "red", "dog", "the", "12"])).map(" ".join)),
    st.integers(1, 4),
)
def test_a_mined_word_is_in_enough_captions_and_no_other_is(texts, least):
    mined = mine_concepts(texts, least=least, most_share=0.7)
    found = {word for one in mined for word in one.words}
    for word in ("a", "b", "red", "dog", "the", "12"):
        count = sum(word in words_of(text) for text in texts)
        wanted = least <= count <= 0.7 * len(texts)
        assert (word in found) == (wanted and word in ("red", "dog")), word
    assert len({one.id for one in mined}) == len(mined)
    assert not found & STOP_WORDS


def test_ids_differ_where_names_look_alike():
    made = named_concepts([["ice cream"], ["Ice-Cream", "gelato"], ["!"], ["?"]])
    assert [one.id for one in made] == ["ice-cream", "ice-cream-2", "unnamed", "unnamed-2"]
    assert made[1].words == ("Ice-Cream", "gelato")


def test_captions_of_any_shards_are_mined_without_their_pictures(tmp_path):
    picture = np.zeros((2, 2, 3), np.uint8)
    samples = [
        Sample(picture, text, {"captions": [text, "further words"] if number else []})
        for number, text in enumerate(CATS)
    ]
    write_shards(tmp_path, samples, shard_size=2)
    paths = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    assert list(read_captions(TarShards(paths))) == CATS
    assert list(read_captions(TarShards(paths), samples=2)) == [CATS[0], CATS[-1]]
    both = TarShards(paths, needs=("json",))
    expected = ["", *(f"{text}\nfurther words" for text in CATS[1:])]
    assert list(read_captions(both, caption="json.captions")) == expected


@given(st.lists(st.sampled_from(["red", "ice", "cream", "cat", "b"])).map(" ".join))
def test_a_caption_has_the_concepts_whose_phrases_are_in_it(text):
    concepts = named_concepts([["ice cream", "Sorbet"], ["cat"], ["ice"], ["red cat ice"]])
    padded = f" {text} "
    expected = tuple(
        number
        for number, one in enumerate(concepts)
        if any(f" {word.lower()} " in padded for word in one.words)
    )
    assert ConceptIndex(concepts).of(text) == ConceptIndex(concepts).of(text.upper()) == expected


def test_a_list_comes_back_from_its_file(tmp_path):
    concepts = [
        Concept("cat", "cat", ("cat", "ねこ"), {"photo": ("1F431", "1F408"), "word": ()}),
        Concept("no", "no", ("no",)),
    ]
    save_concepts(tmp_path / "c.json", concepts, facets=["photo", "word"], controls=["word"])
    assert load_concepts(tmp_path / "c.json") == concepts
    assert json.loads((tmp_path / "c.json").read_text())["facets"] == ["photo", "word"]
    (tmp_path / "c.yaml").write_text(
        "- id: cat\n  words: [cat, tomcat]\n- {id: 'no'}\n", encoding="utf-8"
    )
    assert load_concepts(tmp_path / "c.yaml") == [
        Concept("cat", "cat", ("cat", "tomcat")),
        Concept("no", "no", ("no",)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{id: cat, word: [cat]}]", "concept 1: no such field 'word'. Did you mean 'words'"),
        ("{concept: []}", "no such field 'concept'. Did you mean 'concepts'"),
        ("[{id: cat}, {id: CAT, name: b}]", "concept 2 has the id 'CAT' of concept 1. Remove one"),
        ("[{id: a, name: x}, {id: b, name: x, words: [b]}]", "concept 2 has the name 'x' of"),
        ("[{id: a, words: [x, Y]}, {id: b, words: [y, x]}]", "has the words 'y, x' of concept 1"),
        ("[{id: a, words: [x, X]}]", r"concept 1 \(a\): has the word 'x' twice"),
        ("[{id: a, words: []}]", r"concept 1 \(a\): has no words"),
        ("[{id: a, words: cat}]", "words is the text 'cat', wanted a list of texts"),
        ("[{id: a, words: [no]}]", "one of words is False, wanted a text. YAML takes no"),
        ("[{id: a, positives: [x]}]", "positives is a list of 1, wanted stimulus ids by facet"),
        ("[{id: a, positives: {photo: 3}}]", "positives.photo is 3, wanted a list"),
        ("[{name: a}]", "concept 1: has no id"),
        ("[{id: ' '}]", "id is the text ' ', wanted a text"),
        ("[cat]", "concept 1: is the text 'cat', wanted a mapping"),
        ("[]", "holds a list of 0, wanted a list of concepts"),
        ("cat", "holds the text 'cat', wanted a list of concepts"),
        ("", "holds None, wanted a list"),
        ("[{id: a, id: b}]", "the field 'id' is there twice"),
        ("[{id: a", "cannot be read as concepts"),
        ("!!python/object:os.system {}", "cannot be read as concepts"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "concepts.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_concepts(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"wanted \.json, \.yaml, \.yml"):
        load_concepts(tmp_path / "concepts.txt")
    with pytest.raises(UserError, match="No such file"):
        load_concepts(tmp_path / "concepts.json")
    (tmp_path / "twice.json").write_text('[{"id": "a", "id": "b"}]')
    with pytest.raises(UserError, match="'id' is there twice"):
        load_concepts(tmp_path / "twice.json")
