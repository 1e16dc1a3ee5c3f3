"""What was counted is there, whatever happens to the process."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import UserError
from clipjax.core.rows import Rows
from clipjax.inference import feature_files
from clipjax.inference.feature_files import FeatureFile

ROWS = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)


def opened(folder, count=50, identity="a"):
    return FeatureFile(folder / "x.npy", 3, count, identity)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@settings(deadline=None)  # of a disk
@given(st.lists(st.integers(0, 20), max_size=12), st.integers(0, 40))
def test_any_parts_over_any_number_of_openings_are_the_file_that_numpy_writes(
    tmp_path_factory, sizes, count
):
    folder = tmp_path_factory.mktemp("rows")
    done = 0
    for size in [*sizes, 100]:
        with opened(folder, count) as file:
            assert file.done == done
            np.testing.assert_array_equal(file.array, ROWS[:done])
            size = min(size, count - done)
            if size or done < count:
                file.append(ROWS[done : done + size])
            done += size
            np.testing.assert_array_equal(file.array, ROWS[:done])
        assert (folder / "x.npy").exists() == (done == count)
    np.save(folder / "expected.npy", ROWS[:count])
    assert (folder / "x.npy").read_bytes() == (folder / "expected.npy").read_bytes()
    assert names(folder) == [".x.npy.progress", "expected.npy", "x.npy"]


def test_it_is_what_an_encoder_takes(tmp_path):
    assert isinstance(opened(tmp_path), Rows)


def test_a_finished_file_is_known_again_and_not_touched(tmp_path):
    with opened(tmp_path) as file:
        file.append(ROWS)
    before = (tmp_path / "x.npy").stat()
    with opened(tmp_path) as file:
        assert file.done == 50
        np.testing.assert_array_equal(file.array, ROWS)
        assert not file.array.flags.writeable
    after = (tmp_path / "x.npy").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert names(tmp_path) == [".x.npy.progress", "x.npy"]


@pytest.mark.parametrize("done", [20, 50], ids=["part", "whole"])
@pytest.mark.parametrize("change", [{"identity": "b"}, {"count": 49}, {"identity": "a\nb"}])
def test_another_identity_or_size_begins_anew(tmp_path, done, change):
    with opened(tmp_path) as file:
        file.append(ROWS[:done])
    with opened(tmp_path, **change) as file:
        assert file.done == 0
        assert not (tmp_path / "x.npy").exists()
        file.append(ROWS[10:30])
    with opened(tmp_path, **change) as file:
        assert file.done == 20
        np.testing.assert_array_equal(file.array, ROWS[10:30])
    with opened(tmp_path) as file:
        assert file.done == 0


def test_a_whole_part_beside_the_old_file_takes_its_place(tmp_path, monkeypatch):
    """A crash between the last row and the name: what has the name is of another model."""
    np.save(tmp_path / "x.npy", np.zeros((50, 3), np.float32))
    with opened(tmp_path) as file, monkeypatch.context() as patch:
        np.save(tmp_path / "x.npy", np.zeros((50, 3), np.float32))
        patch.setattr(FeatureFile, "_finish", lambda self: None)
        file.append(ROWS)
    with opened(tmp_path) as file:
        assert file.done == 50
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), ROWS)


@pytest.mark.parametrize("tail", [b"3", b"33", b"\0\0\0\0", b"4x\n", b"\n\n", b"99\n"])
def test_a_count_that_was_cut_or_damaged_is_not_believed(tmp_path, tail):
    with opened(tmp_path) as file:
        file.append(ROWS[:30])
    with open(tmp_path / ".x.npy.progress", "ab") as log:
        log.write(tail)
    with opened(tmp_path) as file:
        done = file.done
        assert done == (0 if tail == b"99\n" else 30)
        file.append(ROWS[done:32])
    with opened(tmp_path) as file:
        assert file.done == 32
        file.append(ROWS[32:])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), ROWS)


@pytest.mark.parametrize("harm", ["progress", "part", "cut", "empty"])
def test_a_part_that_is_not_whole_begins_anew(tmp_path, harm):
    with opened(tmp_path) as file:
        file.append(ROWS[:30])
    part, progress = tmp_path / ".x.npy.part", tmp_path / ".x.npy.progress"
    if harm in ("progress", "part"):
        {"progress": progress, "part": part}[harm].unlink()
    elif harm == "cut":
        os.truncate(part, 200)
    else:
        progress.write_bytes(b"")
    with opened(tmp_path) as file:
        assert file.done == 0
        file.append(ROWS)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), ROWS)


def test_rows_are_on_the_disk_before_they_are_counted(tmp_path, monkeypatch):
    done = []
    paths = lambda fd: os.readlink(f"/proc/self/fd/{fd}").rpartition(".")[2]  # noqa: E731
    for name in ("pwrite", "write", "fsync"):
        call = getattr(os, name)

        def told(fd, *args, call=call, name=name):
            done.append((name, paths(fd)))
            return call(fd, *args)

        monkeypatch.setattr(feature_files.os, name, told)
    with opened(tmp_path) as file:
        done.clear()
        file.append(ROWS[:10])
    assert done == [
        ("pwrite", "part"),
        ("fsync", "part"),
        ("write", "progress"),
        ("fsync", "progress"),
    ]


def test_two_processes_do_not_write_one_file(tmp_path):
    with opened(tmp_path) as file:
        file.append(ROWS[:10])
        with pytest.raises(UserError, match=r"x.npy: another process is writing it"):
            opened(tmp_path)
        with pytest.raises(UserError, match=r"x.npy: another process is writing it"):
            opened(tmp_path, identity="b")
        file.append(ROWS[10:])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), ROWS)


@pytest.mark.parametrize("done", [0, 20, 50])
def test_what_is_removed_leaves_nothing(tmp_path, done):
    with opened(tmp_path) as file:
        file.append(ROWS[:done])
        file.remove()
    assert names(tmp_path) == []


def test_rows_that_do_not_fit_are_refused(tmp_path):
    with opened(tmp_path) as file:
        file.append(ROWS[:40])
        for rows in (ROWS[:11], ROWS[:2, :2]):
            with pytest.raises(ValueError, match="behind 40 of 50 rows of 3 numbers"):
                file.append(rows)
        assert file.done == 40


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/x.npy: cannot be written \(No such file"):
        opened(tmp_path / "nowhere")


def test_a_full_disk_is_an_error_that_can_be_gone_on_from(small_disk):
    disk, resize = small_disk
    rows = np.ones((1000, 100), np.float32)
    resize(200)
    with FeatureFile(disk / "x.npy", 100, 1000, "a") as file:
        file.append(rows[:100])
        with pytest.raises(OSError, match=r"No space left.*x\.npy"):
            file.append(rows[100:])
    resize(1000)
    with FeatureFile(disk / "x.npy", 100, 1000, "a") as file:
        assert file.done == 100
        file.append(rows[100:])
    np.testing.assert_array_equal(np.load(disk / "x.npy"), rows)


_WRITER = """
import sys, time
import numpy as np
from clipjax.inference.feature_files import FeatureFile

rows = np.random.default_rng(3).standard_normal((3000, 64)).astype(np.float32)
with FeatureFile(sys.argv[1], 64, 3000, "a") as file:
    print(file.done, flush=True)
    while file.done < 3000:
        file.append(rows[file.done : file.done + 100])
        time.sleep(float(sys.argv[2]))
"""


def test_a_process_that_is_killed_is_gone_on_with(tmp_path, make_child_env):
    def start(name, pause):
        return subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path / name), str(pause)],
            env=make_child_env(),
            stdout=subprocess.PIPE,
            text=True,
        )

    with start("whole.npy", 0) as process:
        assert process.wait() == 0
    begun = []
    for least in (3, 9, 15):
        with start("killed.npy", 0.02) as process:
            begun.append(int(next(iter(process.stdout))))
            progress, end = tmp_path / ".killed.npy.progress", time.monotonic() + 60
            while len(progress.read_bytes().splitlines()) < least + 2:
                assert time.monotonic() < end
                time.sleep(0.002)
            process.kill()
    assert not (tmp_path / "killed.npy").exists()
    with start("killed.npy", 0) as process:
        begun.append(int(next(iter(process.stdout))))
        assert process.wait() == 0
    assert begun == sorted(set(begun))
    assert begun[0] == 0
    assert begun[-1] >= 1500
    assert (tmp_path / "killed.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
