"""Files of this machine, read with `pread`."""

import os
import stat as stat_lib
import threading
from collections import OrderedDict

from clipjax.data.storage.interface import ChangedError, FileStat, StorageError

_MAX_HANDLES = 256


class Handle:
    """An open file that closes itself when nobody refers to it any more.

    So a thread that reads keeps its file open while another one drops it from a cache.
    """

    def __init__(self, path: str):
        self._fd: int | None = None
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self):
        if self._fd is not None:
            os.close(self._fd)

    def stat(self) -> FileStat:
        """Returns size and modification time of the open file."""
        assert self._fd is not None
        return _file_stat(os.fstat(self._fd))

    def inode(self) -> int:
        """Returns the number of the open file, another one for another file of the same name."""
        assert self._fd is not None
        return os.fstat(self._fd).st_ino

    def read(self, offset: int, length: int) -> bytes:
        """Returns `length` bytes, or fewer where the file ends before."""
        assert self._fd is not None
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]  # one call of the system gives at most 2 GiB
        while (got := sum(map(len, parts))) < length:
            part = os.pread(self._fd, length - got, offset + got)
            if not part:
                break
            parts.append(part)
        return b"".join(parts)


class LocalStorage:
    """Files by path; what a path held when it was first looked at is what it must go on holding.

    Size and modification time are compared at every read, so a shard that somebody writes over
    is noticed and not mixed with the old one.
    """

    def __init__(self):
        self._stats: dict[str, FileStat] = {}
        self._handles: OrderedDict[str, tuple[Handle, FileStat]] = OrderedDict()
        self._lock = threading.Lock()

    def stat(self, url: str) -> FileStat:
        """Looks at the file now.

        Raises:
            StorageError: if there is no such file.
        """
        try:
            found = os.stat(url)
        except (OSError, ValueError) as error:
            raise _unreadable(url, error) from error
        if stat_lib.S_ISDIR(found.st_mode):
            raise StorageError(f"{url}: is a folder, wanted a file.")
        stat = _file_stat(found)
        with self._lock:
            self._stats[url] = stat
            if url in self._handles and self._handles[url][1] != stat:
                del self._handles[url]
        return stat

    def read(self, url: str, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes.

        Raises:
            ChangedError: if the file is another one than when it was first looked at.
            StorageError: if it cannot be read.
        """
        check_range(offset, length)
        handle, stat = self._open(url)
        try:
            data = handle.read(offset, length)
            now = handle.stat()
        except OSError as error:
            raise _unreadable(url, error) from error
        if now != stat:
            raise _changed(url, "its size or modification time is another one")
        if len(data) != length:
            raise past_the_end(url, stat, offset, length)
        return data

    def prefetch(self, url: str, offset: int, length: int) -> None:
        """Does nothing: the operating system reads ahead."""

    def forget(self, url: str, offset: int = 0, length: int | None = None) -> None:  # noqa: ARG002
        """Closes the file; the next read opens what is there then."""
        with self._lock:
            self._handles.pop(url, None)
            self._stats.pop(url, None)

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        with self._lock:
            self._handles.clear()

    def _open(self, url: str) -> tuple[Handle, FileStat]:
        with self._lock:
            if url in self._handles:
                self._handles.move_to_end(url)
                return self._handles[url]
            try:
                handle = Handle(url)
            except (OSError, ValueError) as error:
                raise _unreadable(url, error) from error
            stat = handle.stat()
            if self._stats.setdefault(url, stat) != stat:
                raise _changed(url, "its size or modification time is another one")
            self._handles[url] = handle, stat
            if len(self._handles) > _MAX_HANDLES:
                self._handles.popitem(last=False)
            return handle, stat


def check_range(offset: int, length: int) -> None:
    """Raises ValueError for a range that no file can have."""
    if offset < 0 or length < 0:
        raise ValueError(f"offset={offset}, length={length}: neither may be negative")


def past_the_end(name: str, stat: FileStat, offset: int, length: int) -> StorageError:
    """Returns the error for a range that reaches behind the end of a file."""
    return StorageError(
        f"{name}: has {stat.size:,} bytes, wanted {length:,} at offset {offset:,}. The file is "
        "truncated, or its index is of another one: copy or make it again."
    )


def _file_stat(found: os.stat_result) -> FileStat:
    return FileStat(found.st_size, str(found.st_mtime_ns))


def _unreadable(path: str, error: Exception) -> StorageError:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    return StorageError(f"{path}: {reason}. Check the name and its folder.")


def _changed(path: str, what: str) -> ChangedError:
    return ChangedError(
        f"{path}: changed since it was first read ({what}). Bring the file back or start again: "
        "the run goes on from its last checkpoint with a new index."
    )
