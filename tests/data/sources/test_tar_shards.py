import io
import os
import shutil
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clipjax.config.errors import UserError
from clipjax.data.sources import tar_shards
from clipjax.data.sources.tar_shards import ShardChangedError, TarShards, expand_shards
from clipjax.data.streams import Piece
from clipjax.data.tar_index import open_index


def content(i, size):
    return np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8).tobytes()


def write(path, members, mtime=0):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def members(shard, count=6, salt=0):
    """Sizes around the block size; the image is now a jpg, now a png, or webp beside jpg."""
    out = []
    for i in range(count):
        number = 1000 * shard + 10 * i + salt
        image = ("jpg", "png", "jpeg", "webp")[i % 4]
        out.append((f"{shard}{i:03d}.{image}", content(number, 500 + 6 * i)))
        out.append((f"{shard}{i:03d}.txt", content(number + 1, 10 * i)))
    return out


@pytest.fixture
def paths(tmp_path):
    return [write(tmp_path / f"{s:05d}.tar", members(s)) for s in range(3)]


@pytest.fixture
def source(paths):
    shards = TarShards(paths)
    yield shards
    shards.close()


def expected_samples(paths):
    """{"image", "txt"} of each key, read by tarfile."""
    out = []
    for path in paths:
        with tarfile.open(path) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar}
        for key in dict.fromkeys(name.split(".")[0] for name in files):
            image = next(data for name, data in files.items()
                         if name.startswith(key) and not name.endswith(".txt"))  # fmt: skip
            out.append({"image": image, "txt": files[f"{key}.txt"]})
    return out


def test_every_samples_bytes_are_those_that_tarfile_reads(source, paths):
    expected = expected_samples(paths)
    assert len(source) == len(expected) == 18
    assert [dict(sample) for sample in source] == expected
    assert [source.key(i) for i in (0, 6, 17)] == [
        f"{paths[0]}: 0000",
        f"{paths[1]}: 1000",
        f"{paths[2]}: 2005",
    ]


def test_texts_are_the_sample_without_its_image(source):
    for number in range(len(source)):
        whole = dict(source[number])
        assert whole.pop("image")
        assert source.texts(number) == whole


def test_threads_may_share_an_instance(source, paths):
    expected = expected_samples(paths)
    wanted = np.random.default_rng(0).integers(0, 18, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(source.__getitem__, wanted))
    assert all(got[i] == expected[index] for i, index in enumerate(wanted))


def test_reading_goes_on_after_close(source):
    first = source[0]
    source.close()
    source.close()
    assert source[0] == first


@pytest.mark.parametrize("index", [-1, 18, 10**9])
def test_an_index_outside_is_an_error(source, index):
    with pytest.raises(IndexError, match=f"sample {index} of 18"):
        source[index]


def test_an_image_in_two_formats_is_one_sample(tmp_path):
    path = write(tmp_path / "x.tar", [("a.png", b"p"), ("a.jpg", b"j"), ("a.txt", b"t")])
    assert [dict(sample) for sample in TarShards([path])] == [{"image": b"j", "txt": b"t"}]


def test_incomplete_samples_are_counted_and_the_first_is_named(tmp_path):
    whole = write(tmp_path / "0.tar", members(0, 3))
    torn = write(
        tmp_path / "1.tar",
        [
            *members(1, 2),
            ("no-text.jpg", b"x"),
            ("no-image.txt", b"x"),
            ("other.gif", b"x"),
            ("other.txt", b"x"),
            ("README", b"x"),
        ],
    )
    source = TarShards([whole, torn])
    assert len(source) == 5
    assert source.num_incomplete == 4
    assert source.example_incomplete == f"{torn}: no-text"
    assert source.key(4) == f"{torn}: 1001"
    assert TarShards([whole]).example_incomplete == ""


def test_what_is_needed_decides_which_samples_are_complete(tmp_path):
    files = [("a.jpg", b"1"), ("a.txt", b"2"), ("b.jpg", b"3"), ("b.json", b"4"), ("b.cls", b"5")]
    path = write(tmp_path / "x.tar", files)
    assert [dict(s) for s in TarShards([path], needs=("json", "cls"))] == [
        {"image": b"3", "json": b"4", "cls": b"5"}
    ]
    with pytest.raises(UserError, match=r"no complete sample in 1 shards.* \.xml of the same key"):
        TarShards([path], needs=("xml",))


def the_change(source, path):
    """Reads everything; returns the message about the changed shard."""
    with pytest.raises(ShardChangedError) as caught:
        list(source)
    message = str(caught.value)
    assert message.startswith(f"{path}: changed since it was indexed")
    assert "start again" in message
    return message


def rewrite_in_place(path, data):
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate(len(data))


@pytest.mark.parametrize("opened", [False, True])
def test_a_shard_rewritten_in_place_is_detected(source, paths, tmp_path, opened):
    """Other files of the same sizes: the headers differ by the time of writing."""
    if opened:
        list(source)
    other = write(tmp_path / "other", members(1, salt=5), mtime=99)
    rewrite_in_place(paths[1], Path(other).read_bytes())
    the_change(source, paths[1])


@pytest.mark.parametrize("opened", [False, True])
def test_a_shard_whose_samples_moved_is_detected(source, paths, tmp_path, opened):
    if opened:
        list(source)
    other = write(tmp_path / "other", members(1)[2:] + members(1)[:2])
    rewrite_in_place(paths[1], Path(other).read_bytes())
    the_change(source, paths[1])


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("length", [0, 700, 6000])
def test_a_truncated_shard_is_detected(source, paths, opened, length):
    if opened:
        list(source)
    os.truncate(paths[1], length)
    the_change(source, paths[1])


def test_a_shard_cut_inside_its_last_file_is_detected(source, paths):
    """Its header is still there, so only the number of bytes tells."""
    list(source)
    with tarfile.open(paths[1]) as tar:
        last = tar.getmembers()[-1]
    os.truncate(paths[1], last.offset_data + last.size - 1)
    the_change(source, paths[1])


def test_a_shard_replaced_before_it_was_opened_is_detected_though_its_headers_are_equal(
    source, paths, tmp_path
):
    """Same names, sizes and times inside the tar, another content: only the file's time tells."""
    list(source[i] for i in range(3))
    os.replace(write(tmp_path / "other", members(1, salt=5)), paths[1])
    the_change(source, paths[1])


def test_a_shard_replaced_after_it_was_opened_goes_on_giving_its_old_bytes(source, paths, tmp_path):
    before = [dict(sample) for sample in source]
    os.replace(write(tmp_path / "other", members(1, salt=5), mtime=9), paths[1])
    assert [dict(sample) for sample in source] == before


def test_a_removed_shard_is_named(source, paths):
    os.remove(paths[2])
    assert "No such file" in the_change(source, paths[2])


def test_other_shards_stay_readable(source, paths):
    os.remove(paths[0])
    assert source[7]["image"] == expected_samples(paths[1:])[1]["image"]


def test_the_digest_does_not_depend_on_where_the_shards_lie(paths, tmp_path):
    moved = tmp_path / "elsewhere" / "deep"
    moved.mkdir(parents=True)
    there = [shutil.copy(path, moved) for path in paths]
    assert TarShards(there).digest() == TarShards(paths).digest() == TarShards(paths).digest()


@pytest.mark.parametrize("change", ["order", "fewer", "name", "size", "time", "needs", "missing"])
def test_the_digest_changes_with_every_byte_of_the_layout(paths, tmp_path, change):
    before = TarShards(paths).digest()
    files, needs, mtime = members(1), ("txt",), 0
    if change == "name":
        files[0] = ("renamed.jpg", files[0][1])
        files[1] = ("renamed.txt", files[1][1])
    elif change == "size":
        files[-1] = (files[-1][0], files[-1][1] + b"!")
    elif change == "time":
        mtime = 1
    elif change == "needs":
        needs = ()
    elif change == "missing":
        del files[-1]
    write(paths[1], files, mtime)
    after = {"order": paths[::-1], "fewer": paths[:2]}.get(change, paths)
    assert TarShards(after, needs=needs).digest() != before


@pytest.fixture
def tree(tmp_path):
    for name in ("a/0.tar", "a/1.tar", "a/2.tar", "b/7.tar", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("a/*.tar", "a/0.tar a/1.tar a/2.tar"),
        ("a/{0..1}.tar", "a/0.tar a/1.tar"),
        ("a/{00000..00002}.tar", "a/00000.tar a/00001.tar a/00002.tar"),
        ("{b,a}/*.tar", "a/0.tar a/1.tar a/2.tar b/7.tar"),
        ("b/7.tar a/0.tar", "a/0.tar b/7.tar"),
        ("a/*.tar a/0.tar", "a/0.tar a/1.tar a/2.tar"),
        ("a/[02].tar", "a/0.tar a/2.tar"),
        ("b/?.tar", "b/7.tar"),
    ],
)
def test_patterns_name_local_files_sorted_and_once(tree, patterns, expected):
    assert expand_shards(str(tree), patterns) == [str(tree / name) for name in expected.split()]


def test_absolute_patterns_leave_the_root(tree):
    assert expand_shards("/nowhere", f"{tree}/b/*.tar") == [f"{tree}/b/7.tar"]


@pytest.mark.parametrize("folder", ["run [1]", "{a,b}", "x::y", "50*"])
def test_the_root_is_a_path_and_no_pattern(tmp_path, folder):
    root = tmp_path / folder
    root.mkdir()
    (root / "0.tar").write_bytes(b"")
    assert expand_shards(str(root), "*.tar") == [str(root / "0.tar")]
    assert expand_shards(str(root), "{0..0}.tar") == [str(root / "0.tar")]


@pytest.mark.parametrize("patterns", ["", "   "])
def test_no_pattern_is_an_error(tree, patterns):
    with pytest.raises(UserError, match=r"data\.shards is empty.*--config\.data\.shards="):
        expand_shards(str(tree), patterns)


def test_a_pattern_without_a_file_is_named(tree):
    with pytest.raises(UserError) as caught:
        expand_shards(str(tree), "a/*.tar c/*.tar")
    message = str(caught.value)
    assert "data.shards='c/*.tar'" in message
    assert f"data.root={str(tree)!r}" in message
    assert "clipjax data emoji" in message


@pytest.mark.parametrize(
    "pattern",
    [
        "pipe:touch\tMARK",
        "pipe:touch${IFS}MARK",
        "http://localhost/0.tar",
        "gs://bucket/{0..3}.tar",
    ],
)
def test_only_local_files_are_read_and_nothing_is_executed(tree, pattern, monkeypatch):
    monkeypatch.chdir(tree)
    with pytest.raises(UserError, match="only files of this machine can be read"):
        TarShards(expand_shards(str(tree), pattern.replace("MARK", str(tree / "MARK"))))
    assert not (tree / "MARK").exists()


def test_a_root_that_is_a_command_is_not_executed(tree, monkeypatch):
    monkeypatch.chdir(tree)
    with pytest.raises(UserError, match="No such file"):
        TarShards(expand_shards(f"pipe:touch {tree}/MARK;", "0.tar"))
    assert not (tree / "MARK").exists()


def test_close_forgets_what_was_to_be_fetched(source, monkeypatch):
    """A slow server must not keep a process from ending: only the fetch under way goes on."""
    begun, gate = [], threading.Event()

    def slow(piece):
        begun.append(piece)
        assert gate.wait(60)

    monkeypatch.setattr(tar_shards, "is_remote", lambda url: True)
    monkeypatch.setattr(source, "_fetch", slow)
    pieces = [Piece(0, i, i + 1) for i in range(6)]
    source.prefetch(pieces)
    source.close()
    gate.set()
    source.prefetch([Piece(1, 0, 1)])
    source.close()
    assert set(begun) < {*pieces, Piece(1, 0, 1)}
    assert len(begun) <= 4  # two threads before, two after
    assert source[0]


@pytest.mark.parametrize("lost", [100, 512, 700])
def test_what_lies_behind_a_lost_range_is_read_wherever_it_begins(tmp_path, lost):
    """A few bytes are cut out in the middle: later headers need not begin at multiples of 512."""
    whole = write(tmp_path / "0.tar", members(0, 40))
    expected = {tuple(sample.items()) for sample in expected_samples([whole])}
    data = Path(whole).read_bytes()
    middle = len(data) // 2 // 512 * 512 + 300
    Path(whole).write_bytes(data[:middle] + data[middle + lost :])
    source = TarShards([whole])
    assert len(source) >= 37
    assert source.damage
    found = {tuple(sorted(sample.items())) for sample in source}
    wrong = found - {tuple(sorted(sample)) for sample in expected}
    assert len(wrong) <= 1  # the one that lost bytes


def test_threads_that_want_one_shard_open_it_once(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{s}.tar", members(s)) for s in range(4)]
    source = TarShards(paths)
    opened, lock = [], threading.Lock()

    def slow(path, *args, **options):
        with lock:
            opened.append(path)
        time.sleep(0.05)
        return open_index(path, *args, **options)

    monkeypatch.setattr(tar_shards, "open_index", slow)
    source._tables.clear()
    source._rows_kept = 0
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(source.__getitem__, list(range(24)) * 8))
    assert sorted(opened) == paths
    assert source._rows_kept == 24
