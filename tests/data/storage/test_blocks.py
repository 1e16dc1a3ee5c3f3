import dataclasses
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.storage import blocks as blocks_module
from clipjax.data.storage.blocks import BlockCache, BlockKey, FileBlock, prefix_of, remove_oldest

KEY = BlockKey("http://host/0.tar", '"v1"', 1000, 100, 3)


def make_cache(directory, max_bytes=1 << 20):
    return BlockCache(directory, max_bytes)


def block_files(directory):
    return sorted(path for path in directory.iterdir() if path.suffix == ".block")


def body(key=KEY, seed=0):
    return bytes((i * 7 + seed) % 256 for i in range(key.end - key.start))


@given(
    size=st.integers(1, 1000),
    block_bytes=st.integers(1, 300),
)
def test_blocks_tile_a_file(size, block_bytes):
    keys = [
        BlockKey("u", "v", size, block_bytes, index)
        for index in range((size + block_bytes - 1) // block_bytes)
    ]
    covered = [byte for key in keys for byte in range(key.start, key.end)]
    assert covered == list(range(size))


@pytest.mark.parametrize(
    "other",
    [{"url": "http://host/1.tar"}, {"version": '"v2"'}, {"size": 999}, {"block_bytes": 50}]
    + [{"index": 4}],
)
def test_another_file_version_or_place_is_another_block(tmp_path, other):
    cache = make_cache(tmp_path)
    cache.store(KEY, body())
    key = dataclasses.replace(KEY, **other)
    assert key.name() != KEY.name()
    assert cache.load(key) is None
    assert cache.opened(key) is None


def test_a_block_comes_back_in_another_cache(tmp_path):
    make_cache(tmp_path / "new" / "folder").store(KEY, body())
    block = make_cache(tmp_path / "new" / "folder").load(KEY)
    assert isinstance(block, FileBlock)
    assert block.read(0, 100) == body()
    assert block.read(13, 17) == body()[13:17]
    assert [p.name for p in (tmp_path / "new" / "folder").glob("*.tmp")] == []


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_block_is_never_taken(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("blocks")
    make_cache(directory).store(KEY, body())
    (path,) = block_files(directory)
    whole = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "more"]))
    if kind == "flip":
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        whole += b"\0"
    path.write_bytes(whole)
    assert make_cache(directory).load(KEY) is None
    assert not path.exists()


def test_a_block_under_the_name_of_another_is_not_taken(tmp_path):
    cache = make_cache(tmp_path)
    other = dataclasses.replace(KEY, index=4)
    cache.store(other, body(other))
    os.replace(tmp_path / other.name(), tmp_path / KEY.name())
    assert cache.load(KEY) is None


def test_what_a_killed_process_left_half_written_is_ignored_and_goes_after_an_hour(tmp_path):
    cache = make_cache(tmp_path)
    fresh, old = tmp_path / ".1-1.tmp", tmp_path / ".2-2.tmp"
    for path in (fresh, old):
        path.write_bytes(body()[:50])
    os.utime(old, (1, 1))
    cache.store(KEY, body())
    assert cache.load(KEY) is not None
    assert fresh.exists()
    assert not old.exists()


def test_the_blocks_used_longest_ago_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "_TOUCH_SECONDS", 0.0)
    keys = [dataclasses.replace(KEY, size=10_000, index=index) for index in range(10)]
    cache = make_cache(tmp_path, max_bytes=10 * 152)  # a file has 52 bytes of header
    for number, key in enumerate(keys):
        cache.store(key, body(key))
        os.utime(tmp_path / key.name(), (1000 + number, 1000 + number))
    used = cache.load(keys[0])  # the oldest, and now the newest
    assert used is not None
    new = dataclasses.replace(KEY, size=10_000, index=50)
    cache.store(new, body(new))
    left = [key for key in [*keys, new] if (tmp_path / key.name()).exists()]
    assert left == [keys[0], *keys[3:], new]
    gone = cache.load(keys[1])
    assert gone is None
    assert sum(path.stat().st_size for path in block_files(tmp_path)) <= 9 * 152


def test_a_block_in_use_stays_readable_when_another_process_removes_it(tmp_path):
    cache = make_cache(tmp_path)
    cache.store(KEY, body())
    block = cache.load(KEY)
    remove_oldest(tmp_path, 0)
    assert block_files(tmp_path) == []
    assert block.read(0, 100) == body()


def test_use_is_told_to_others_once_a_minute(tmp_path):
    cache = make_cache(tmp_path)
    cache.store(KEY, body())
    block = cache.load(KEY)
    (path,) = block_files(tmp_path)
    os.utime(path, (5, 5))
    cache.opened(KEY)
    assert path.stat().st_mtime == 5  # just told
    block._touched -= 61
    cache.opened(KEY)
    assert path.stat().st_mtime > 5


def test_the_blocks_of_one_file_are_dropped_and_no_others(tmp_path):
    cache = make_cache(tmp_path)
    other = dataclasses.replace(KEY, url="http://host/0.tar.2")
    new = dataclasses.replace(KEY, version='"v2"')
    for key in (KEY, new, other):
        cache.store(key, body(key))
        assert cache.load(key) is not None
    cache.drop_file(KEY.url)
    for key in (KEY, new):
        assert cache.opened(key) is None
        assert cache.load(key) is None
    assert [path.name for path in block_files(tmp_path)] == [other.name()]
    assert other.name().startswith(prefix_of(other.url))


@pytest.mark.parametrize("kind", ["none", "a file is there"])
def test_without_a_disk_the_newest_blocks_stay_in_memory(tmp_path, kind, capsys, monkeypatch):
    monkeypatch.setattr(blocks_module, "_MEMORY_BYTES", 350)
    (tmp_path / "file").write_bytes(b"")
    cache = BlockCache(None if kind == "none" else tmp_path / "file" / "cache", 1 << 20)
    keys = [dataclasses.replace(KEY, index=index) for index in range(5)]
    for key in keys:
        assert cache.store(key, body(key)).read(0, 100) == body(key)
    assert [cache.opened(key) is not None for key in keys] == [False, False, True, True, True]
    assert cache.load(keys[0]) is None
    cache.drop_file(KEY.url)
    assert cache.opened(keys[4]) is None
    told = capsys.readouterr().err
    assert told.count("\n") == (kind != "none")
    if kind != "none":
        assert "Not a directory" in told
        assert "data.remote.cache_dir" in told


def test_a_full_disk_is_told_once_and_used_again_when_there_is_room(
    small_disk, capsys, monkeypatch
):
    monkeypatch.setattr(blocks_module, "_DISK_PAUSE_SECONDS", 0.0)
    directory, resize = small_disk
    assert resize(200).returncode == 0
    cache = make_cache(directory, 1 << 30)
    big = [BlockKey("u", "v", 1 << 20, 1 << 16, index) for index in range(6)]
    for key in big:
        assert cache.store(key, body(key)).read(5, 9) == body(key)[5:9]
    for key in big:
        block = cache.opened(key) or cache.load(key)
        assert block.read(0, 1 << 16) == body(key)
    assert 1 <= len(block_files(directory)) <= 3
    assert list(directory.glob("*.tmp")) == []
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "No space left" in told
    resize(100_000)
    late = BlockKey("u", "v", 1 << 20, 1 << 16, 9)
    cache.store(late, body(late))
    assert (directory / late.name()).exists()
    cache.close()


def test_open_files_are_bounded_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "_MAX_HANDLES", 3)
    before = len(os.listdir("/proc/self/fd"))
    cache = make_cache(tmp_path)
    keys = [dataclasses.replace(KEY, index=index) for index in range(9)]
    for key in keys:
        cache.store(key, body(key))
        cache.load(key)
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    cache.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_summed_up_once_in_each_process(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "_MAX_HANDLES", 1)
    cache = make_cache(tmp_path)
    keys = [dataclasses.replace(KEY, index=index) for index in range(3)]
    summed = []
    real = blocks_module._has_checksum
    monkeypatch.setattr(
        blocks_module, "_has_checksum", lambda handle, key: summed.append(key) or real(handle, key)
    )
    for key in keys:
        cache.store(key, body(key))
    for key in keys * 3:  # one handle for three files: each is opened three times
        assert cache.load(key).read(0, 100) == body(key)
    assert summed == keys
    path = tmp_path / keys[0].name()
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.with_suffix(".new").write_bytes(damaged)
    os.replace(path.with_suffix(".new"), path)  # another file of this name is looked at again
    assert cache.load(keys[0]) is None


def test_threads_store_load_and_remove_without_a_wrong_byte(tmp_path):
    cache = make_cache(tmp_path, max_bytes=5 * 152)
    keys = [dataclasses.replace(KEY, size=10_000, index=index) for index in range(20)]
    wrong = []

    def work(seed):
        for turn in range(150):
            key = keys[(turn * 7 + seed * 3) % 20]
            block = cache.opened(key) or cache.load(key) or cache.store(key, body(key, key.index))
            if block.read(0, 100) != body(key, key.index):
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(path.stat().st_size for path in block_files(tmp_path)) <= 6 * 152


_WRITER = """
import os, sys
from pathlib import Path
from clipjax.data.storage.blocks import BlockCache, BlockKey
cache = BlockCache(Path(sys.argv[1]), 1 << 30)
print("ready", flush=True)
for turn in range(10**9):
    key = BlockKey("u", "v", 1 << 30, 1 << 20, turn % 8)
    cache.store(key, bytes([turn % 8]) * (1 << 20))
"""


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_nothing_wrong(tmp_path, make_child_env):
    for delay in (0.02, 0.05, 0.11):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=make_child_env(),
        )
        assert writer.stdout.readline() == b"ready\n"
        threading.Event().wait(delay)
        writer.kill()
        writer.communicate()
        cache = make_cache(tmp_path, 1 << 30)
        found = 0
        for index in range(8):
            block = cache.load(BlockKey("u", "v", 1 << 30, 1 << 20, index))
            if block is not None:
                found += 1
                assert block.read(0, 1 << 20) == bytes([index]) * (1 << 20)
        assert found == len(block_files(tmp_path)) > 0
