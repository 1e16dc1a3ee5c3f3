"""Files and folders that appear whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest

from clipjax.config import UserError
from clipjax.core import files
from clipjax.core.files import replaced, replaced_folder


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    with replaced(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert left(tmp_path) == ["weights"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "weights"
    path.write_bytes(b"old")

    def write():
        with replaced(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert left(tmp_path) == ["weights"]


def test_a_folder_takes_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with replaced_folder(path) as folder:
        (folder / "new").touch()
        assert left(path) == ["old"]
    assert left(path) == ["new"]
    assert left(tmp_path) == ["model"]


def test_a_folder_takes_the_place_of_a_file_and_of_a_link_but_not_of_its_target(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "kept").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with replaced_folder(tmp_path / name) as folder:
            (folder / "new").touch()
        assert left(tmp_path / name) == ["new"]
    assert left(tmp_path / "target") == ["kept"]
    assert left(tmp_path) == ["file", "link", "target"]


def test_after_an_error_the_old_folder_is_there_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()

    def write():
        with replaced_folder(path) as folder:
            (folder / "half").touch()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert left(path) == ["old"]
    assert left(tmp_path) == ["model"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from clipjax.core.files import replaced_folder
with replaced_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_the_old_folder(tmp_path, make_child_env):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, path], env=make_child_env(), check=False, cwd=os.getcwd()
    )
    assert done.returncode == -9
    assert left(path) == ["old"]
    # What it left behind is beside it, hidden, and never taken for the folder.
    assert [name for name in left(tmp_path) if not name.startswith(".")] == ["model"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none/a.json", "No such file or directory"),
        ("folder", "Is a directory"),
        ("file/a.json", "Not a directory"),
        ("x" * 250, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path, name, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{name}: cannot be written \({why}\)"):  # noqa: SIM117
        with replaced(tmp_path / name):
            pytest.fail("the work was done")
    assert left(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, UserError), (errno.EROFS, UserError), (errno.ENOSPC, OSError)],
)
@pytest.mark.parametrize("step", ["open", "os"])
def test_only_what_a_person_can_mend_is_a_mistake(tmp_path, monkeypatch, number, kind, step):
    """The superuser may write anywhere, so that the refusal is acted."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    if step == "open":
        monkeypatch.setattr(files, "open", refuse, raising=False)
    else:
        monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(kind, match=os.strerror(number)), replaced(tmp_path / "a.json") as file:
        file.write(b"whole")
    assert left(tmp_path) == []


def test_an_error_of_the_block_is_no_mistake_of_a_person(tmp_path):
    with pytest.raises(PermissionError), replaced(tmp_path / "a.json"):
        raise PermissionError(errno.EACCES, "of something else")
