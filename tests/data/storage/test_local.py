import contextlib
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.storage import ChangedError, FileStat, StorageError
from clipjax.data.storage import local as local_module
from clipjax.data.storage.local import LocalStorage


@pytest.fixture
def file(tmp_path, content):
    path = tmp_path / "0.tar"
    path.write_bytes(content)
    return path


@pytest.fixture
def storage():
    storage = LocalStorage()
    yield storage
    storage.close()


def handles(folder):
    """Returns how many of this process's handles are of files in `folder`."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # another thread's, closed since it was listed
            found += os.readlink(f"/proc/self/fd/{name}").startswith(f"{folder}{os.sep}")
    return found


def test_stat_tells_size_and_time(storage, file, content):
    os.utime(file, ns=(5, 17))
    assert storage.stat(str(file)) == FileStat(len(content), "17")


@settings(deadline=None)
@given(data=st.data())
def test_every_range_is_that_of_the_file(data, tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "ranges.tar"
    if not path.exists():
        path.write_bytes(content)
    offset = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, len(content) - offset))
    storage = LocalStorage()
    assert storage.read(str(path), offset, length) == content[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(299_999, 2), (300_001, 1), (10**12, 5)])
def test_a_range_behind_the_end_is_an_error(storage, file, offset, length):
    with pytest.raises(StorageError, match=r"has 300,000 bytes, wanted"):
        storage.read(str(file), offset, length)


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, -1)])
def test_a_range_that_cannot_be_is_our_mistake(storage, file, offset, length):
    with pytest.raises(ValueError, match="negative"):
        storage.read(str(file), offset, length)


@pytest.mark.parametrize("method", ["stat", "read"])
@pytest.mark.parametrize(
    ("name", "reason"), [("nope.tar", "No such file"), ("", "folder|directory"), ("a\0b", "null")]
)
def test_what_is_no_file_is_told_in_one_line(storage, tmp_path, method, name, reason):
    arguments = () if method == "stat" else (0, 1)
    with pytest.raises(StorageError, match=reason) as caught:
        getattr(storage, method)(str(tmp_path / name), *arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["append", "same size", "replace", "truncate"])
@pytest.mark.parametrize("first", ["stat", "read"])
def test_a_file_that_changes_is_noticed_and_not_mixed(storage, file, content, change, first):
    if first == "stat":
        storage.stat(str(file))
    else:
        storage.read(str(file), 0, 10)
    if change == "append":
        with open(file, "ab") as out:
            out.write(b"more")
    elif change == "same size":
        file.write_bytes(content[::-1])
        os.utime(file, ns=(1, 1))
    elif change == "truncate":
        os.truncate(file, 100)
    else:
        other = file.with_name("other")
        other.write_bytes(b"another")
        os.utime(other, ns=(1, 1))
        os.replace(other, file)
    if (first, change) == ("read", "replace"):  # the open file is still the old one
        assert storage.read(str(file), 0, 10) == content[:10]
        storage.close()
    with pytest.raises(ChangedError, match="changed since it was first read"):
        storage.read(str(file), 0, 5)
    storage.forget(str(file))
    assert storage.read(str(file), 0, 5) == file.read_bytes()[:5]


def test_a_new_look_accepts_the_new_content(storage, file):
    storage.read(str(file), 0, 10)
    file.write_bytes(b"all new")
    os.utime(file, ns=(1, 1))
    assert storage.stat(str(file)).size == 7
    assert storage.read(str(file), 0, 7) == b"all new"


def test_handles_are_bounded_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(local_module, "_MAX_HANDLES", 5)
    storage = LocalStorage()
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(bytes([number] * 3))
        assert storage.read(str(tmp_path / f"{number}"), 1, 1) == bytes([number])
    assert handles(tmp_path) == 5
    storage.close()
    assert handles(tmp_path) == 0
    assert storage.read(str(tmp_path / "0"), 0, 1) == b"\0"  # and it opens again
    storage.close()
    assert handles(tmp_path) == 0


def test_threads_read_while_handles_are_taken_away(tmp_path, monkeypatch, content):
    monkeypatch.setattr(local_module, "_MAX_HANDLES", 1)
    paths = []
    for number in range(4):
        paths.append(str(tmp_path / f"{number}"))
        (tmp_path / f"{number}").write_bytes(bytes([number]) + content[:5000])
    storage = LocalStorage()
    wrong = []

    def work(seed):
        for turn in range(300):
            number = (turn * 7 + seed) % 4
            if storage.read(paths[number], 0, 5001) != bytes([number]) + content[:5000]:
                wrong.append(number)
            if turn % 50 == 0:
                storage.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_prefetching_a_local_file_does_nothing(storage, tmp_path):
    storage.prefetch(str(tmp_path / "nope"), 0, 100)
