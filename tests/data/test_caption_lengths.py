import json

import numpy as np
import pytest

from clipjax.config import DataConfig, UsageError
from clipjax.data.caption_lengths import caption_lengths, check_local, num_tokens
from clipjax.data.captions import caption_members, every_caption
from clipjax.data.opening import Sources, open_sources, order_record
from clipjax.data.order import shuffled
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.tokenizers import ByteTokenizer

TEXTS = ["a", "four", "", "häuser", "x" * 40, "two words", "seven"]


@pytest.fixture
def shards(make_tar, tmp_path):
    samples = {
        f"{i}": {
            "png": b"not read",
            "txt": text.encode(),
            "json": json.dumps({"c": [text, text * 2], "n": 3}).encode(),
        }
        for i, text in enumerate(TEXTS)
    }
    samples["7"] = {"png": b"", "txt": b"\xff", "json": b"{"}
    make_tar(tmp_path / "a.tar", samples)
    return tmp_path


class Counting(ByteTokenizer):
    """Counts its calls."""

    calls = 0

    def __call__(self, text):
        self.calls += 1
        return super().__call__(text)


def measure(shards, context_length=20, **fields):
    data = DataConfig(root=str(shards), shards="a.tar", threads=2, **fields)
    tokenizer = Counting(context_length=context_length, lowercase=True)
    lengths = caption_lengths(open_sources(data), tokenizer, data)
    return lengths, tokenizer.calls


def test_the_length_is_that_of_the_ids(shards):
    lengths, _ = measure(shards)
    expected = [min(len(text.encode()) + 2, 20) if text else 0 for text in TEXTS]
    assert lengths.tolist() == [*expected, 0]
    assert lengths.dtype == np.uint16


def test_of_several_captions_the_longest_counts(shards):
    lengths, _ = measure(shards, caption="txt json.c")
    expected = [min(2 * len(text.encode()) + 2, 20) if text else 0 for text in TEXTS]
    assert lengths.tolist() == [*expected, 0]


def test_lengths_are_measured_once(shards):
    first, calls = measure(shards)
    assert calls == len(TEXTS) - 1
    again, calls = measure(shards)
    assert calls == 0
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize(
    "fields", [{"context_length": 12}, {"caption": "json.c"}], ids=["tokenizer", "caption"]
)
def test_other_lengths_are_measured_anew(shards, fields):
    measure(shards)
    assert measure(shards, **fields)[1] > 0


def test_other_shards_are_measured_anew(shards, make_tar):
    measure(shards)
    make_tar(shards / "a.tar", {"0": {"png": b"", "txt": b"another"}})
    assert measure(shards)[0].tolist() == [9]


@pytest.mark.parametrize("damage", [b"", b"no array", None], ids=["empty", "text", "cut"])
def test_damaged_files_are_measured_anew(shards, damage, tmp_path):
    first, _ = measure(shards, index_dir=str(tmp_path / "index"))
    (place,) = (tmp_path / "index").glob("*.npy")
    place.write_bytes(place.read_bytes()[:-3] if damage is None else damage)
    again, calls = measure(shards, index_dir=str(tmp_path / "index"))
    assert calls > 0
    np.testing.assert_array_equal(again, first)


def test_where_nothing_can_be_written_lengths_are_measured_each_time(shards, tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        lengths, calls = measure(shards, index_dir=str(tmp_path / "file" / "below"))
        assert (len(lengths), calls) == (8, 6)


def test_every_caption_is_what_can_be_drawn():
    member = {"txt": b"a", "json": json.dumps({"c": ["b", "", "d"], "e": "f", "n": 3}).encode()}
    assert every_caption(member, "json.c") == ["b", "d"]
    assert every_caption(member, "txt:0 json.e:1") == ["a", "f"]
    assert every_caption(member, "json.n json.none") == []
    assert every_caption({"txt": b"\xff"}, "txt json.c") == []


def test_a_text_without_end_counts_whole():
    assert num_tokens(np.array([1, 2, 3]), 9) == 3


def test_remote_shards_are_refused_in_one_line(shards):
    local = TarShards([str(shards / "a.tar")], needs=caption_members("txt"))
    check_local(Sources({"": local}))
    local.shard_url = lambda shard: "s3://bucket/a.tar"
    with pytest.raises(UsageError, match=r"^s3://bucket/a\.tar: config\.data\.text_buckets.*\.$"):
        check_local(Sources({"": local}))


def test_the_record_of_the_order_holds_the_buckets(shards):
    def record(**fields):
        data = DataConfig(root=str(shards), shards="a.tar", **fields)
        order = shuffled(num_examples=8, global_batch_size=4, seed=0)
        return order_record(data, order, open_sources(data))

    assert record() == {}
    texts = {"caption": "txt", "shuffled_captions": False}  # which decide the lengths
    assert record(text_buckets=(8, 20)) == {"text_buckets": [8, 20], "bucket_group": 16, **texts}
    assert record(text_buckets=(8, 20), bucket_group=2) != record(text_buckets=(8, 20))
    for other in ({"caption": "txt json.a"}, {"shuffled_captions": True}):
        assert record(text_buckets=(8, 20), **other) != record(text_buckets=(8, 20))
    windowed = record(text_buckets=(8, 20), window_shards=1)
    assert windowed["text_buckets"] == [8, 20]
    assert windowed["lanes"] == 1
