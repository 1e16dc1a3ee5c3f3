"""Duplicates: the first of each is kept, whatever the parts in which hashes are sorted."""

import tarfile

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.columns import ShardColumns
from clipjax.data.duplicates import first_of_each, image_hashes, text_column_hashes
from clipjax.data.tar_index import open_index, opened

HASHES = st.lists(st.one_of(st.integers(0, 6), st.integers(0, 2**64 - 1)), max_size=80)


@given(hashes=HASHES, part=st.integers(1, 90))
def test_the_first_of_each_against_a_set(hashes, part):
    seen, expected = set(), []
    for value in hashes:
        expected.append(value not in seen)
        seen.add(value)
    assert first_of_each(np.array(hashes, np.uint64), part=part).tolist() == expected


def test_many_hashes_in_many_parts():
    hashes = np.random.default_rng(0).integers(0, 40_000, 100_000).astype(np.uint64)
    expected = np.sort(np.unique(hashes, return_index=True)[1])
    for part in (999, 1 << 26):
        assert np.array_equal(np.flatnonzero(first_of_each(hashes, part=part)), expected)


SAMPLES = {
    "a": {"jpg": b"one", "txt": b"A dog"},
    "b": {"png": b"one", "txt": b" A dog \n"},
    "c": {"jpg": b"two", "webp": b"one", "txt": b"a dog"},
    "d": {"jpg": b"one0", "txt": b""},
    "e": {"txt": b"no image"},
}


@pytest.fixture
def index(tmp_path, make_tar):
    return open_index(str(make_tar(tmp_path / "0.tar", SAMPLES)), checksums=True)


def test_an_image_is_its_bytes_whatever_its_suffix(index):
    hashes = image_hashes(index, np.arange(4)).tolist()
    with tarfile.open(index.path) as tar:
        data = [tar.extractfile(name).read() for name in ("a.jpg", "b.png", "c.jpg", "d.jpg")]
    assert hashes == [google_crc32c.value(d) * 2**32 + len(d) for d in data]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_without_checksums_there_is_nothing_to_compare(tmp_path, make_tar):
    index = open_index(str(make_tar(tmp_path / "1.tar", SAMPLES)))
    with pytest.raises(ValueError, match="no checksums"):
        image_hashes(index, np.arange(4))


def test_captions_are_compared_without_the_space_around_them(index):
    with opened(index.path) as read:
        hashes, missing = text_column_hashes(ShardColumns(index, read), "caption")
    assert missing.tolist() == [False, False, False, True, False]
    assert hashes[0] == hashes[1]
    assert len(np.unique(hashes[~missing])) == 3
