import io
import os
import random
import sys
import tarfile
import tempfile
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from clipjax.config.errors import UserError
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.tar_index import open_index

BLOCK = 512
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def write(path, members, tar_format=tarfile.PAX_FORMAT):
    """Writes (name, content) pairs; a content of None makes a folder."""
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return str(path)


def content(i, size=700):
    return np.random.default_rng(i).integers(1, 255, size, dtype=np.uint8).tobytes()


def samples(count, name="{:04d}"):
    return [
        (f"{name.format(i)}.{suffix}", content(i + ord(suffix[0])))
        for i in range(count)
        for suffix in ("png", "txt")
    ]


def files(index):
    """{(key, suffix): (offset, size)} of an index."""
    return {
        (key, suffix): (int(index.offsets[row, column]), int(index.sizes[row, column]))
        for row, key in enumerate(index.keys)
        for column, suffix in enumerate(index.suffixes)
        if index.offsets[row, column] >= 0
    }


@pytest.fixture
def shard(tmp_path):
    return write(tmp_path / "00000.tar", samples(5))


LETTERS = st.text("ab01_-é漢 ", min_size=1, max_size=12)
STEMS = LETTERS | st.builds(lambda part, n: part * n, LETTERS, st.integers(10, 30))
SUFFIXES = st.sampled_from(["jpg", "txt", "json", "seg.png", "PNG", "cls"])
FOLDERS = st.lists(
    st.text("ab.é", min_size=1, max_size=8).filter(lambda t: t.strip(".")), max_size=3
)
NAMES = st.builds(lambda folders, stem, suffix: "/".join([*folders, f"{stem}.{suffix}"]),
                  FOLDERS, STEMS, SUFFIXES)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(NAMES, st.integers(0, 2000), max_size=12),
    st.sampled_from(FORMATS[1:]),
    st.booleans(),
)
def test_the_index_is_what_tarfile_and_webdataset_see(sizes, tar_format, with_folders):
    """Offsets and sizes as tarfile reads them, keys and suffixes as webdataset splits them."""
    members = [(name, content(i, size)) for i, (name, size) in enumerate(sizes.items())]
    members.sort(key=lambda member: base_plus_ext(member[0])[0])
    if with_folders:
        members = [(f"folder{i}.d", None) for i in range(2)] + members
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "x.tar"), members, tar_format)
        fresh, cached = open_index(path), open_index(path)
        with tarfile.open(path) as tar:
            seen = [m for m in tar if m.isfile()]
    expected = {}
    for member in seen:
        key, suffix = base_plus_ext(member.name)
        expected[key, suffix.lower()] = (member.offset_data, member.size)
    for index in (fresh, cached):
        assert files(index) == expected
        assert not index.damage
        assert index.damage.counts == ({"directory": 2} if with_folders else {})
        assert list(index.keys) == list(dict.fromkeys(base_plus_ext(m.name)[0] for m in seen))
    assert fresh.digest() == cached.digest()


def test_names_that_are_not_utf8_are_kept_apart_and_cached(tmp_path, builds):
    """Old archives hold Latin-1: such a byte must neither stop a run nor merge two samples."""
    names = [f"caf{mark}.{suffix}" for mark in ("\udce9", "\udce8") for suffix in ("jpg", "txt")]
    path = write(tmp_path / "x.tar", [(n, n.encode(errors="replace")) for n in names],
                 tarfile.GNU_FORMAT)  # fmt: skip
    fresh, cached = open_index(path), open_index(path)
    assert fresh.keys == cached.keys == ("caf\udce9", "caf\udce8")
    assert fresh.digest() == cached.digest()
    assert len(builds) == 1


def the_error(path, tmp_path):
    with pytest.raises(UserError) as caught:
        TarShards([path], index_dir=str(tmp_path / "indexes"))
    message = str(caught.value)
    assert path in message
    return message


def test_a_missing_shard_is_named(tmp_path):
    message = the_error(str(tmp_path / "none.tar"), tmp_path)
    assert "No such file" in message
    assert "Check the name" in message


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "web page"),
        (b"\n <!DOCTYPE html>" + b"x" * 2000, "web page"),
        (b"x" * 20_000, "no tar header"),
        (b"\x1f\x8b" + b"z" * 3000, "gzip"),
        (b"PK\x03\x04" + b"z" * 3000, "zip"),
        (b"\x28\xb5\x2f\xfd" + b"z" * 3000, "zstd"),
        (b"\xff\xd8\xff" + b"z" * 3000, "JPEG"),
    ],
)
def test_what_is_not_a_tar_is_named(tmp_path, data, what):
    (tmp_path / "x.tar").write_bytes(data)
    message = the_error(str(tmp_path / "x.tar"), tmp_path)
    assert what in message
    assert "cannot be read as a tar shard" in message
    assert "make it again" in message


def test_a_folder_is_no_shard(tmp_path):
    assert "cannot be read" in the_error(str(tmp_path), tmp_path)


def test_an_empty_tar_has_no_complete_sample(tmp_path):
    message = the_error(write(tmp_path / "x.tar", []), tmp_path)
    assert "no complete sample" in message
    assert ".txt" in message


def test_an_empty_tar_beside_others_adds_nothing(tmp_path, shard):
    empty = write(tmp_path / "x.tar", [])
    for _ in range(2):
        assert len(TarShards([empty, shard])) == 5


@pytest.mark.parametrize("again", ["0001.png", "0001.PNG"])
def test_of_two_files_of_one_name_the_first_is_kept(tmp_path, again):
    plain = files(open_index(write(tmp_path / "plain.tar", samples(3))))
    path = write(tmp_path / "x.tar", [*samples(3), (again, b"other")])
    for _ in range(2):  # the second comes from the cache
        index = open_index(path)
        assert files(index) == plain
        assert index.damage.counts == {"duplicate member": 1}
        assert index.damage.first == again


def test_after_a_second_file_of_a_name_nothing_joins_the_sample(tmp_path):
    """a.jpg, a.jpg, a.txt: the caption may be the second picture's."""
    path = write(tmp_path / "x.tar", [("a.jpg", b"1"), ("a.jpg", b"2"), ("a.txt", b"2")])
    index = open_index(path)
    assert [suffix for _, suffix in files(index)] == ["jpg"]
    assert index.damage.counts == {"duplicate member": 1, "split sample": 1}


@pytest.mark.parametrize("name", ["d/" * 60, "é"])
def test_a_doubled_name_that_no_checksum_covers_costs_its_sample(tmp_path, name):
    """One flipped bit of such a name would look the same, with another's file first."""
    members = [(f"{name}{file}", file.encode()) for file in ("a.txt", "b.txt", "b.jpg", "b.txt")]
    index = open_index(write(tmp_path / "x.tar", members))
    assert files(index).keys() == {(f"{name}a", "txt")}
    assert index.keys == (f"{name}a", f"{name}b")
    assert index.damage.counts == {"duplicate member": 1}


@pytest.mark.parametrize("lost", ["smashed", "zeroed"])
def test_across_a_gap_nothing_is_paired(tmp_path, lost):
    """Two shards were joined; damage reaches from the first's 0000.jpg to the second's 0000.txt."""
    first = [("0000.jpg", b"1"), ("0000.txt", b"1"), ("0001.jpg", b"1")]
    second = [("0000.jpg", b"2"), ("0000.txt", b"2"), ("0002.jpg", b"2"), ("0002.txt", b"2")]
    path = Path(write(tmp_path / "x.tar", first + second))
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    data = bytearray(path.read_bytes())
    fill = b"\xff" if lost == "smashed" else b"\0"
    start, end = members[1].offset, members[4].offset
    data[start:end] = fill * (end - start)
    path.write_bytes(data)
    index = open_index(str(path))
    assert files(index).keys() == {("0000", "jpg"), ("0002", "jpg"), ("0002", "txt")}
    assert index.damage.counts["split sample"] == 1
    assert [s["txt"] for s in TarShards([str(path)])] == [b"2"]


def test_interleaved_samples_are_not_put_together(tmp_path):
    """The files of a sample lie side by side; others under its key may be another sample's."""
    order = ["a.jpg", "b.jpg", "a.txt", "b.txt", "c.jpg", "c.txt", "a.json"]
    index = open_index(write(tmp_path / "x.tar", [(name, name.encode()) for name in order]))
    assert files(index).keys() == {("a", "jpg"), ("b", "jpg"), ("c", "jpg"), ("c", "txt")}
    assert index.damage.counts == {"split sample": 3}
    assert index.damage.first == "a.txt"


def test_two_shards_joined_give_the_samples_of_the_first_under_each_key(tmp_path):
    first, second = samples(3), [(n, b"second") for n, _ in samples(5)]
    whole = files(open_index(write(tmp_path / "1.tar", first)))
    joined = tmp_path / "x.tar"
    joined.write_bytes(
        Path(tmp_path / "1.tar").read_bytes() + Path(write(tmp_path / "2.tar", second)).read_bytes()
    )
    index = open_index(str(joined))
    assert index.keys == ("0000", "0001", "0002", "0003", "0004")
    assert {place: span for place, span in files(index).items() if place in whole} == whole
    assert index.damage.counts == {"zero blocks": 1, "duplicate member": 6}


def test_sparse_files_are_left_out(tmp_path):
    """Their content lies in the tar in pieces, so one pread would give other bytes."""
    path = Path(write(tmp_path / "x.tar", samples(2), tarfile.GNU_FORMAT))
    whole = files(open_index(str(path)))
    data = bytearray(path.read_bytes())
    data[156:157] = tarfile.GNUTYPE_SPARSE
    set_checksum(data, 0)
    path.write_bytes(data)
    index = open_index(str(path))
    assert files(index) == {k: v for k, v in whole.items() if k != ("0000", "png")}
    assert index.damage.counts == {"sparse": 1}
    assert len(TarShards([str(path)])) == 1


def test_a_negative_size_does_not_send_the_reader_in_circles(tmp_path):
    """Of an unknown kind of file, which is passed over: two blocks back is its own header."""
    path = Path(write(tmp_path / "x.tar", samples(2), tarfile.GNU_FORMAT))
    whole = files(open_index(str(path)))
    data = bytearray(path.read_bytes())
    data[124:136] = (-BLOCK).to_bytes(12, "big", signed=True)
    data[156:157] = b"Z"
    set_checksum(data, 0)
    path.write_bytes(data)
    index = open_index(str(path))
    assert files(index) == {k: v for k, v in whole.items() if k != ("0000", "png")}
    assert index.damage.counts == {"header checksum": 1}


def set_checksum(data, start):
    header = bytearray(data[start : start + BLOCK])
    header[148:156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(header)


@pytest.mark.parametrize("tar_format", FORMATS)
def test_a_shard_cut_anywhere_gives_the_files_before_the_cut_and_says_so(tmp_path, tar_format):
    name = "d/" * 60 + "{:04d}" if tar_format == tarfile.PAX_FORMAT else "{:04d}"
    path = Path(write(tmp_path / "x.tar", samples(4, name), tar_format))
    whole, expected = path.read_bytes(), files(open_index(str(path)))
    with tarfile.open(path) as tar:
        spans = [(m.offset, m.offset_data + m.size) for m in tar]
    starts = {start for start, _ in spans}
    last = spans[-1][1]
    mark = -(-last // BLOCK) * BLOCK
    for cut in [*range(BLOCK, mark + 1, 128), mark - 1, mark + 1]:
        path.write_bytes(whole[:cut])
        index = open_index(str(path))
        assert files(index) == {k: (o, s) for k, (o, s) in expected.items() if o + s <= cut}
        if cut > mark:
            assert not index.damage
        elif cut in starts or any(end <= cut <= -(-end // BLOCK) * BLOCK for _, end in spans):
            assert index.damage.counts == {"no end mark": 1}
        else:
            assert index.damage.counts["truncated"] == 1
    path.write_bytes(whole[: BLOCK - 1])
    assert "no tar header" in the_error(str(path), tmp_path)


@pytest.mark.parametrize("fill", [0, 255])
def test_behind_a_damaged_header_reading_goes_on(tmp_path, fill):
    path = Path(write(tmp_path / "x.tar", samples(4)))
    expected = files(open_index(str(path)))
    with tarfile.open(path) as tar:
        start = tar.getmembers()[4].offset
    data = bytearray(path.read_bytes())
    data[start : start + BLOCK] = bytes([fill]) * BLOCK
    path.write_bytes(data)
    source = TarShards([str(path)])
    assert [source.key(i).split()[-1] for i in range(3)] == ["0000", "0001", "0003"]
    assert source.num_incomplete == 1
    index = open_index(str(path))
    assert files(index) == {k: v for k, v in expected.items() if k != ("0002", "png")}
    assert index.damage.counts == {"header checksum" if fill else "zero blocks": 1}
    assert index.damage.first == f"byte {start:,}"


def header_bytes(path):
    with tarfile.open(path) as tar:
        spans = [(member.offset, member.offset_data) for member in tar]
    return [i for first, end in spans for i in range(first, end)]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_smashed_headers_never_cost_anything_in_silence(tmp_path, tar_format):
    """1 to 40 random header bytes: all files or a count, and no file elsewhere than it was."""
    name = "é/" * 40 + "{:04d}" if tar_format != tarfile.USTAR_FORMAT else "{:04d}"
    path = Path(write(tmp_path / "x.tar", samples(4, name), tar_format))
    whole, places = path.read_bytes(), header_bytes(path)
    spans = set(files(open_index(str(path))).values())
    rng = random.Random(tar_format)
    damaged = 0
    for trial in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 40])):
            data[rng.choice(places)] = rng.randrange(256)
        path.write_bytes(data)
        os.utime(path, (trial, trial))
        try:
            index = open_index(str(path), str(tmp_path / "indexes"))
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017 - every header was hit
            continue
        found = set(files(index).values())
        assert found <= spans
        assert found == spans or index.damage
        damaged += bool(index.damage)
    assert damaged > 100


def test_headers_of_a_hostile_hand_give_an_index_within_the_file(tmp_path):
    """Random fields under a valid checksum: negative and huge sizes, odd types, odd names."""
    path = Path(write(tmp_path / "x.tar", samples(4), tarfile.GNU_FORMAT))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        starts = [member.offset for member in tar]
    rng = random.Random(1)
    fields = [(0, 100), (100, 108), (124, 136), (124, 125), (136, 148), (156, 157), (257, 265)]
    for trial in range(600):
        data = bytearray(whole)
        start, (first, end) = rng.choice(starts), rng.choice(fields)
        fill = rng.choice([rng.randbytes(end - first), b"\xff" * (end - first), b"\x80"])
        data[start + first : start + first + len(fill)] = fill
        set_checksum(data, start)
        path.write_bytes(data)
        os.utime(path, (trial, trial))
        for checksums in (False, True):
            index = open_index(str(path), str(tmp_path / "indexes"), checksums=checksums)
            assert all(o >= BLOCK and o + s <= len(data) for o, s in files(index).values())


def test_checksums_are_those_of_the_contents_and_are_cached(tmp_path, builds):
    """Against google_crc32c over what tarfile reads; sizes below, at and above a large read."""
    sizes = [0, 1, 511, 512, 513, 70_000, (4 << 20) + 1000, 5, 9 << 20, 3]
    members = [(f"{i}.bin", content(i, size)) for i, size in enumerate(sizes)]
    path = write(tmp_path / "x.tar", members)
    plain = open_index(path)
    assert not plain.has_checksums
    assert not plain.crcs.any()
    fresh, cached = open_index(path, checksums=True), open_index(path, checksums=True)
    again = open_index(path)
    assert len(builds) == 2
    expected = [google_crc32c.value(data) for _, data in members]
    for index in (fresh, cached, again):
        assert index.has_checksums
        assert index.crcs[:, 0].tolist() == expected
        assert files(index) == files(plain)
        assert index.digest() == plain.digest()


def test_without_the_checksum_package_the_command_is_named(shard, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(UserError, match="pip install google-crc32c"):
        open_index(shard, checksums=True)
    assert len(open_index(shard)) == 5


class Bucket:
    """Remote shards in memory; counts what is read."""

    def __init__(self, shards, version="1"):
        self.shards, self.version = shards, version
        self.reads = []

    def stat(self, url):
        return len(self.shards[url]), self.version

    def read(self, url, offset, length):
        self.reads.append((offset, length))
        return self.shards[url][offset : offset + length]


def test_a_remote_shard_is_streamed_once_with_checksums(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write(tmp_path / "x.tar", [(f"{i}.jpg", content(i, 1 << 20)) for i in range(12)])
    data = Path(path).read_bytes()
    bucket = Bucket({"s3://bucket/x.tar": data})
    local = open_index(path, checksums=True)
    for _ in range(2):
        index = open_index("s3://bucket/x.tar", storage=bucket)
        assert index.path == "s3://bucket/x.tar"
        assert (index.size, index.version, index.has_checksums) == (len(data), "1", True)
        assert files(index) == files(local)
        np.testing.assert_array_equal(index.crcs, local.crcs)
    assert sum(length for _, length in bucket.reads) < 1.01 * len(data)
    assert len(bucket.reads) <= len(data) // (4 << 20) + 2
    assert bucket.reads == sorted(bucket.reads)
    assert len(list((tmp_path / "cache" / "clipjax" / "indexes").iterdir())) == 1
    bucket.version = "2"
    before = len(bucket.reads)
    assert open_index("s3://bucket/x.tar", str(tmp_path / "here"), storage=bucket).version == "2"
    assert len(bucket.reads) > before
    assert len(list((tmp_path / "here").iterdir())) == 1


def test_a_url_needs_a_storage(tmp_path):
    with pytest.raises(UserError, match=r"gs://b/0\.tar: no storage"):
        open_index("gs://b/0.tar")


def test_a_remote_shard_that_gives_fewer_bytes_than_it_has_is_an_error(shard, tmp_path):
    data = Path(shard).read_bytes()
    bucket = Bucket({"s3://b/x.tar": data})
    bucket.stat = lambda url: (len(data) + 5000, "1")
    with pytest.raises(UserError, match=r"s3://b/x\.tar: cannot be read .*the file ended at"):
        open_index("s3://b/x.tar", str(tmp_path), storage=bucket)


def test_keys_may_be_any_bytes_and_survive_the_cache(tmp_path, builds):
    """As labels: nothing of them is ever used as a path."""
    keys = ["../../etc/x", "/rooted/y", "a\0b", "a\nb", "\x1b[2J", "caf\udce9", "", "a\\b"]
    path = write(tmp_path / "x.tar", [(f"{key}.é", b"x") for key in keys])
    fresh, cached = open_index(path), open_index(path)
    assert fresh.keys == cached.keys == tuple(keys)
    assert fresh.suffixes == cached.suffixes == ("é",)
    assert len(builds) == 1
    assert sorted(os.listdir(tmp_path)) == ["x.tar", "x.tar.clipjax-index.npz"]
