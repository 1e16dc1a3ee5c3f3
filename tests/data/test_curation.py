"""What one shard contributes to a pool."""

import json
import os

import numpy as np
import pytest

from clipjax.config.errors import UserError
from clipjax.data.balance import Balance, Metadata
from clipjax.data.curation import Curation, contribution
from clipjax.data.filters import AtLeast, CaptionWords, OneOf, TopShare
from clipjax.data.key_table import KeyTable, text_hashes
from clipjax.data.storage import FileStat, StorageError
from clipjax.data.storage.local import LocalStorage
from clipjax.data.tar_index import open_index

SAMPLES = {
    "a": {"jpg": b"1", "txt": b"a dog", "json": b'{"s": 0.9, "L": "en"}'},
    "b": {"jpg": b"1", "txt": b"dog", "json": b'{"s": 0.1, "L": "en"}'},
    "c": {"txt": b"a dog and a cat", "json": b'{"s": 0.7}'},
    "d": {"jpg": b"2", "txt": b"a cat", "json": b"{}"},
}


@pytest.fixture
def shard(tmp_path, make_tar):
    return str(make_tar(tmp_path / "0.tar", SAMPLES))


def of(url, storage=None, needs=("txt",), checksums=False, **options):
    options.setdefault("filters", (CaptionWords(2, None),))
    return contribution(
        url, needs, Curation(**options), storage=storage or LocalStorage(), checksums=checksums
    )


def test_a_shard_contributes_what_is_left_and_what_was_dropped(shard):
    part = of(shard)
    assert part.used.tolist() == [True, False, False, True]
    assert dict(part.dropped) == {"incomplete": 1, "caption words": 1}
    assert part.size == os.path.getsize(shard)
    assert part.digest == bytes.fromhex(open_index(shard).digest())[:16]
    assert part.arrays == {}
    assert not part.damage


def test_the_pool_of_a_top_share_is_what_is_complete_not_what_is_left(shard):
    part = of(shard, top_shares=(TopShare("s", 0.5), TopShare("t", 0.5)))
    np.testing.assert_array_equal(part.arrays["top share 0"], [0.9, 0.1, np.nan, np.nan])
    assert np.isnan(part.arrays["top share 1"]).all()


def test_arrays_are_as_long_as_the_shard_even_if_nothing_is_left(shard):
    balance = Balance(Metadata(["dog", "a dog", "cat"]), 5)
    for words, matched in ((2, [2, 0, 0, 1]), (99, [0, 0, 0, 0])):
        part = of(shard, filters=(CaptionWords(words, None),), duplicates="image", balance=balance)
        assert {len(part.arrays[n]) for n in ("hash", "no hash", "number", "match counts")} == {4}
        assert part.arrays["match counts"].tolist() == matched
        assert len(part.arrays["matched"]) == sum(matched)
        assert part.arrays["hash"][0] == part.arrays["hash"][1] != part.arrays["hash"][3]


def test_only_copies_of_images_need_the_contents(shard):
    of(shard, duplicates="caption")
    assert not open_index(shard).has_checksums
    of(shard, duplicates="image")
    assert open_index(shard).has_checksums


def test_the_columns_of_all_parts_are_asked_for_once():
    curation = Curation(
        filters=(AtLeast("s", 0.5), OneOf("L", ("en",))),
        top_shares=(TopShare("s", 0.5), TopShare("t", 0.5)),
        duplicates="sha256",
    )
    assert curation.columns == ("s", "L", "t", "sha256")
    assert Curation(duplicates="image").columns == ()


def test_samples_with_a_score_say_whose_it_is(shard):
    hashes = np.sort(text_hashes(["a", "d", "elsewhere"]))
    table = KeyTable(hashes, {"score": np.arange(3.0)})
    part = of(shard, scores=table, filters=(AtLeast("score", 0.0),))
    assert set(hashes[part.score_places].tolist()) == set(text_hashes(["a", "d"]).tolist())
    assert dict(part.dropped) == {"incomplete": 1, "no score": 1}


def test_a_parquet_file_that_may_not_be_read_is_one_line(shard, tmp_path):
    (tmp_path / "0.parquet").mkdir()
    with pytest.raises(UserError, match=r"0\.parquet: cannot be read \(Is a directory\).*--no-p"):
        of(shard, filters=(AtLeast("s", 0.5),))
    assert of(shard).used.sum() == 2, "captions of .txt members need none"
    assert of(shard, filters=(AtLeast("s", 0.5),), use_parquet=False).used.sum() == 1


class Bucket:
    """A storage of files in memory that says which of them it was asked for."""

    def __init__(self, files):
        self.files, self.asked = files, []

    def stat(self, url):
        self.asked.append(url)
        if url not in self.files:
            raise StorageError(f"{url}: not found")
        return FileStat(len(self.files[url]), "1")

    def read(self, url, offset, length):
        return self.files[url][offset : offset + length]

    def prefetch(self, url, offset, length):
        pass

    def forget(self, url, offset=0, length=None):
        pass

    def close(self):
        pass


def parquet(rows):
    import pyarrow as pa
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def test_parquet_files_in_a_bucket_are_used_where_they_are(shard, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with open(shard, "rb") as file:
        bucket = Bucket({"s3://b/0.tar": file.read()})
    keep = (AtLeast("s", 0.5),)
    assert of("s3://b/0.tar", bucket, filters=keep).used.tolist() == [True] + [False] * 3
    assert bucket.asked == ["s3://b/0.tar", "s3://b/0.parquet"]
    rows = [{"key": key, "s": 1 - json.loads(SAMPLES[key]["json"]).get("s", 0.0)} for key in "bda"]
    bucket.files["s3://b/0.parquet"] = parquet(rows)
    assert of("s3://b/0.tar", bucket, filters=keep).used.tolist() == [False, True, False, True]


def test_a_signed_url_has_nothing_beside_it(shard, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = "https://host/0.tar?signature=1"
    with open(shard, "rb") as file:
        bucket = Bucket({url: file.read()})
    assert of(url, bucket, filters=(AtLeast("s", 0.5),)).used.sum() == 1
    assert bucket.asked == [url]
