import gzip
import json

import pytest

from clipjax.config.errors import UserError
from clipjax.data.tokenizers import clip_vocabulary
from clipjax.data.tokenizers.clip_vocabulary import (
    OPENAI_SHA256,
    find_merges,
    packaged_merges,
    read_merges,
)
from clipjax.data.tokenizers.merges import MergeTable


def lines(merges):
    return "\n".join(["#version: 0.2", *(" ".join(merge) for merge in merges), ""])


def hugging_face(merges, /, **changes):
    table = MergeTable(merges)
    first = 512 + len(merges)
    model = {
        "type": "BPE",
        "vocab": {**table.ids, "<|startoftext|>": first, "<|endoftext|>": first + 1},
        "merges": [" ".join(merge) for merge in merges],
        "end_of_word_suffix": "</w>",
    }
    return json.dumps({"version": "1.0", "model": {**model, **changes}})


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "vocabulary"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_every_form_of_a_file_gives_the_same_merges(merges, written):
    pairs = [list(merge) for merge in merges]
    for content in (
        lines(merges),
        gzip.compress(lines(merges).encode()),
        hugging_face(merges),
        hugging_face(merges, merges=pairs),
    ):
        assert read_merges(written(content)).merges == tuple(merges)


def test_merges_that_clip_does_not_use_are_left_out(written, monkeypatch, merges):
    monkeypatch.setattr(clip_vocabulary, "_OPENAI_MERGES", 10)
    assert read_merges(written(lines(merges))).merges == tuple(merges[:10])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no merges"),
        (b"title only\n", "no merges"),
        (b"title\na b c\n", "'a b c' is no merge"),
        (b"title\nab c\n", "unknown part"),
        (b"\xff\xfe", "cannot be read"),
        (gzip.compress(b"x" * 100, mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (b'{"model": ', "no byte-pair model"),
        (b'{"model": []}', "no byte-pair model"),
        (b'{"model": {"vocab": {}, "merges": []}}', "end_of_word_suffix"),
    ],
)
def test_a_file_that_holds_something_else_is_one_line_that_says_what_to_give(
    written, content, problem
):
    path = written(content)
    with pytest.raises(UserError) as error:
        read_merges(path)
    text = str(error.value)
    assert text.startswith(f"config.tokenizer.path={path}: ")
    assert problem in text
    assert "bpe_simple_vocab_16e6.txt.gz" in text
    assert "\n" not in text


def test_a_file_with_other_ids_than_clips_is_sent_to_the_other_kind(written, merges):
    ids = MergeTable(merges).ids
    swapped = {**ids, "a": ids["b"], "b": ids["a"], "<s>": 512 + len(merges), "</s>": 0}
    for changes in (
        {"vocab": ids},
        {"vocab": swapped},
        {"vocab": {**ids, "<s>": 512 + len(merges)}},
        {"end_of_word_suffix": None},
        {"merges": [["a"]]},
        {"merges": [[1, 2]]},
    ):
        with pytest.raises(UserError, match=r"config\.tokenizer\.path="):
            read_merges(written(hugging_face(merges, **changes)))


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json: cannot be read \(.*No such file"):
        read_merges(str(tmp_path / "nothing.json"))


def test_the_package_holds_openais_vocabulary(openai_merges):
    """The hash is that of OpenAI's file; a parity test compares it with open_clip's copy."""
    assert openai_merges.digest() == OPENAI_SHA256
    assert len(openai_merges.merges) == 48_894
    # Ids that CLIP's own documents show.
    ids = openai_merges.ids
    assert [ids[word + "</w>"] for word in ("a", "photo", "of", "cat")] == [320, 1125, 539, 2368]


def test_without_file_and_package_the_error_says_what_helps(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"clipjax\[clip-vocabulary\].*3\.11 and 3\.12") as error:
        find_merges("")
    assert "tokenizer.path" in str(error.value)


def test_a_file_goes_before_the_package(written, merges, monkeypatch):
    monkeypatch.setattr(clip_vocabulary, "packaged_merges", None)
    assert find_merges(written(lines(merges))).merges == tuple(merges)


def test_a_package_with_another_vocabulary_is_not_taken(monkeypatch):
    class Package:
        class Tokenizer:
            def decode(self, ids):
                return "ab"

    monkeypatch.setattr("importlib.import_module", lambda name: Package)
    with pytest.raises(UserError, match="another vocabulary than OpenAI's"):
        packaged_merges()
