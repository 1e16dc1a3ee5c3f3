"""Where the index of a shard is kept, when it is built anew; a damaged one is never believed."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from clipjax.data import tar_index
from clipjax.data.tar_index import open_index


def samples(count):
    rng = np.random.default_rng(0)
    return {f"{i:04d}": {s: rng.bytes(700) for s in ("png", "txt")} for i in range(count)}


@pytest.fixture
def shard(tmp_path, make_tar):
    return str(make_tar(tmp_path / "00000.tar", samples(5)))


def files(index):
    """The keys, and where the file of each suffix lies."""
    return index.keys, index.suffixes, index.offsets.tolist(), index.sizes.tolist()


def test_a_second_opening_uses_the_cache_beside_the_shard(shard, builds):
    first, second = open_index(shard), open_index(shard)
    assert builds == [shard]
    assert files(first) == files(second)
    np.testing.assert_array_equal(first.header_crcs, second.header_crcs)
    found = sorted(os.listdir(Path(shard).parent))
    assert found == ["00000.tar", "00000.tar.clipjax-index.npz"]


def test_another_modification_time_rebuilds_the_index(shard, builds):
    open_index(shard)
    stat = os.stat(shard)
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    open_index(shard)
    assert len(builds) == 2


def test_another_size_rebuilds_the_index_though_the_time_is_the_same(shard, make_tar, builds):
    stat = os.stat(shard)
    open_index(shard)
    make_tar(Path(shard), samples(20))
    os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert len(open_index(shard)) == 20
    assert len(builds) == 2


def test_the_cache_goes_where_it_is_told(shard, tmp_path, builds):
    for _ in range(2):
        open_index(shard, str(tmp_path / "deep" / "indexes"))
    assert len(builds) == 1
    assert len(list((tmp_path / "deep" / "indexes").iterdir())) == 1
    assert [p.name for p in Path(shard).parent.glob("0*")] == ["00000.tar"]


def test_an_index_may_be_read_by_those_who_may_read_the_folder(shard):
    before = os.umask(0o027)
    try:
        open_index(shard)
    finally:
        os.umask(before)
    (index,) = Path(shard).parent.glob("*.clipjax-index.npz")
    assert index.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_no_half_of_an_index(shard, tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tar_index.np, "savez", full)
    assert len(open_index(shard, str(tmp_path / "indexes"))) > 0
    assert list((tmp_path / "indexes").iterdir()) == []


def refuse_files_in(folder, monkeypatch):
    """Makes a folder read-only, also for root."""

    def guarded(path, mode):
        if mode == "wb" and Path(path).parent == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, mode)

    monkeypatch.setattr(tar_index, "open", guarded, raising=False)


def test_in_a_read_only_folder_the_users_cache_directory_serves(
    shard, tmp_path, monkeypatch, builds
):
    refuse_files_in(Path(shard).parent, monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected = files(open_index(shard))
    assert files(open_index(shard)) == expected
    assert len(builds) == 1
    assert len(list((tmp_path / "cache" / "clipjax" / "indexes").iterdir())) == 1
    assert os.listdir(Path(shard).parent).count("00000.tar.clipjax-index.npz") == 0


def test_without_any_writable_place_the_index_is_built_each_time(
    shard, tmp_path, monkeypatch, builds
):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert len(open_index(shard, str(tmp_path / "file"))) == 5
    assert len(builds) == 2


def test_two_shards_of_one_name_share_no_index_in_a_common_directory(tmp_path, make_tar):
    paths = []
    for count in (2, 3):
        (tmp_path / str(count)).mkdir()
        paths.append(str(make_tar(tmp_path / str(count) / "00000.tar", samples(count))))
        os.utime(paths[-1], (1000, 1000))
    indexes = str(tmp_path / "indexes")
    assert [len(open_index(p, indexes)) for p in paths * 2] == [2, 3, 2, 3]


def test_a_damaged_cache_is_never_believed(shard):
    """Each of 400 flipped bytes, and each of 40 cuts, gives the true index."""
    truth = open_index(shard)
    cache = Path(shard + ".clipjax-index.npz")
    whole = cache.read_bytes()
    rng = random.Random(0)
    broken = [whole[: rng.randrange(len(whole))] for _ in range(40)] + [b"", b"text"]
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        broken.append(bytes(flipped))
    for data in broken:
        cache.write_bytes(data)
        index = open_index(shard)
        assert files(index) == files(truth)
        assert index.digest() == truth.digest()
