"""Blocks of remote files, kept as files on a disk that processes of one machine share."""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import struct
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path

from clipjax.data.storage.local import Handle

_HEADER = struct.Struct("<8s32sIQ")  # magic, identity, CRC32C of the content, its length
_MAGIC = b"cjblock1"
_SUFFIX = ".block"
_CHUNK_BYTES = 1 << 20
_MAX_HANDLES = 128
_MAX_VERIFIED = 1 << 16
_MEMORY_BYTES = 64 << 20  # of blocks that no disk takes
_TOUCH_SECONDS = 60.0
_DISK_PAUSE_SECONDS = 30.0
_LEFT_OVER_SECONDS = 3600.0
_KEPT_SHARE = 0.9  # after a clean-up, so that not every new block needs one
_SCAN_SHARE = 1 / 32


@dataclasses.dataclass(frozen=True)
class BlockKey:
    """Which bytes of which version of a file a block holds.

    Attributes:
        url: the file.
        version: of the file.
        size: bytes of the file.
        block_bytes: bytes of every block but the last.
        index: of the block in the file.
    """

    url: str
    version: str
    size: int
    block_bytes: int
    index: int

    @property
    def start(self) -> int:
        """Offset in the file of the first byte."""
        return self.index * self.block_bytes

    @property
    def end(self) -> int:
        """Offset in the file behind the last byte."""
        return min(self.start + self.block_bytes, self.size)

    def identity(self) -> bytes:
        """Returns a hash of all that tells this block from others."""
        return hashlib.sha256("\0".join(map(str, dataclasses.astuple(self))).encode()).digest()

    def name(self) -> str:
        """Returns the name of the block's file; it begins with `prefix_of` its URL."""
        return f"{prefix_of(self.url)}-{self.identity().hex()[:24]}{_SUFFIX}"


def prefix_of(url: str) -> str:
    """Returns what the names of all block files of a URL begin with."""
    return hashlib.sha256(url.encode()).hexdigest()[:24]


class MemoryBlock:
    """A block as it came."""

    def __init__(self, content: bytes):
        self._content = content

    def read(self, start: int, end: int) -> bytes:
        """Returns the bytes [start, end) of the block."""
        return self._content[start:end]


class FileBlock:
    """A block on the disk whose checksum has been verified; it stays readable when deleted."""

    def __init__(self, path: Path, handle: Handle):
        self._path, self._handle = path, handle
        self._touched = -_TOUCH_SECONDS

    def read(self, start: int, end: int) -> bytes:
        """Returns the bytes [start, end) of the block."""
        data = self._handle.read(_HEADER.size + start, end - start)
        if len(data) != end - start:
            raise OSError(f"{self._path}: was cut while it was in use")
        return data

    def touch(self) -> None:
        """Says to all processes that this block is in use; once a minute is enough."""
        now = time.monotonic()
        if now - self._touched >= _TOUCH_SECONDS:
            self._touched = now
            with contextlib.suppress(OSError):
                os.utime(self._path)


Block = MemoryBlock | FileBlock


class BlockCache:
    """Takes and gives blocks; those used longest ago go first when there are too many bytes.

    A block gets its name by a rename and carries its identity and a CRC32C, which are checked when
    a process first opens it: nothing half written or damaged is ever taken. Each process may
    exceed the limit by a thirty-second of it, as it looks at the disk only so often. Where the
    disk takes nothing, the newest blocks are kept in memory, and one line says so.

    Args:
        directory: shared by the processes of a machine; None to keep blocks in memory only.
        max_bytes: of all block files together.
    """

    def __init__(self, directory: Path | None, max_bytes: int):
        self._directory = directory
        self._max_bytes = max_bytes
        self._opened: OrderedDict[BlockKey, FileBlock] = OrderedDict()
        self._verified: OrderedDict[BlockKey, int] = OrderedDict()  # inode of the file
        self._memory: OrderedDict[BlockKey, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._cleaning = threading.Lock()
        self._written = max_bytes  # so that the first block looks at what others have left
        self._pause_until = 0.0
        self._warned = False

    def opened(self, key: BlockKey) -> Block | None:
        """Returns a block that this process has at hand."""
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return MemoryBlock(self._memory[key])
            block = self._opened.get(key)
            if block is not None:
                self._opened.move_to_end(key)
                block.touch()
            return block

    def load(self, key: BlockKey) -> Block | None:
        """Returns a block that lies on the disk, once it has been verified."""
        if self._directory is None:
            return None
        path = self._directory / key.name()
        try:
            handle = Handle(str(path))
            inode = handle.inode()
            with self._lock:
                known = self._verified.get(key) == inode
            verified = _has_header(handle, key) and (known or _has_checksum(handle, key))
        except OSError:
            return None
        if not verified:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        block = FileBlock(path, handle)
        block.touch()
        with self._lock:
            self._verified[key] = inode
            self._opened[key] = block
            if len(self._verified) > _MAX_VERIFIED:
                self._verified.popitem(last=False)
            if len(self._opened) > _MAX_HANDLES:
                self._opened.popitem(last=False)
        return block

    def store(self, key: BlockKey, content: bytes) -> Block:
        """Keeps a block, on the disk where that is possible."""
        if self._directory is None or time.monotonic() < self._pause_until:
            return self._remember(key, content)
        temporary = self._directory / f".{os.getpid()}-{threading.get_ident()}.tmp"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(_header(key, content))
                file.write(content)
            os.replace(temporary, self._directory / key.name())
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._pause_until = time.monotonic() + _DISK_PAUSE_SECONDS
            self._warn(error)
            return self._remember(key, content)
        self._count(len(content))
        return MemoryBlock(content)

    def drop(self, key: BlockKey) -> None:
        """Removes one block."""
        with self._lock:
            self._opened.pop(key, None)
            self._verified.pop(key, None)
            self._memory.pop(key, None)
        if self._directory is not None:
            with contextlib.suppress(OSError):
                (self._directory / key.name()).unlink()

    def drop_file(self, url: str) -> None:
        """Removes all blocks of a file, of any version."""
        with self._lock:
            for kept in (self._opened, self._verified, self._memory):
                for key in [key for key in kept if key.url == url]:
                    del kept[key]
        if self._directory is not None:
            for path in self._directory.glob(f"{prefix_of(url)}-*{_SUFFIX}"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """Closes the files and empties the memory."""
        with self._lock:
            self._opened.clear()
            self._memory.clear()

    def _remember(self, key: BlockKey, content: bytes) -> Block:
        with self._lock:
            self._memory[key] = content
            while len(self._memory) > 1 and sum(map(len, self._memory.values())) > _MEMORY_BYTES:
                self._memory.popitem(last=False)
        return MemoryBlock(content)

    def _warn(self, error: OSError) -> None:
        with self._lock:
            warned, self._warned = self._warned, True
        if not warned:
            print(
                f"warning: {self._directory}: cannot keep blocks of remote files "
                f"({error.strerror}); they are fetched again when they are needed again. Free "
                "space, or set data.remote.cache_dir or cache_bytes.",
                file=sys.stderr,
                flush=True,
            )

    def _count(self, written: int) -> None:
        with self._lock:
            self._written += written
            due = self._written > self._max_bytes * _SCAN_SHARE
            if due:
                self._written = 0
        if due and self._directory is not None:
            with self._cleaning:
                looked = remove_oldest(self._directory, self._max_bytes)
            if not looked:
                self._written = self._max_bytes  # so that the next block tries again


def remove_oldest(directory: Path, max_bytes: int) -> bool:
    """Deletes the block files used longest ago until at most nine tenths of `max_bytes` are left.

    Deletes nothing where there are fewer than `max_bytes`. Files that a killed process left half
    written go after an hour.

    Returns:
        Whether it looked; it does not while another process does.
    """
    with contextlib.suppress(OSError), open(directory / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found: list[tuple[int, int, str]] = []
        abandoned = time.time() - _LEFT_OVER_SECONDS
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    stat = entry.stat()
                    if entry.name.endswith(_SUFFIX):
                        found.append((stat.st_mtime_ns, stat.st_size, entry.path))
                    elif entry.name.endswith(".tmp") and stat.st_mtime < abandoned:
                        os.unlink(entry.path)
        total = sum(size for _, size, _ in found)
        wanted = total if total <= max_bytes else max_bytes * _KEPT_SHARE
        for _, size, path in sorted(found):
            if total <= wanted:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size
        return True
    return False


def _header(key: BlockKey, content: bytes) -> bytes:
    import google_crc32c

    return _HEADER.pack(_MAGIC, key.identity(), google_crc32c.value(content), len(content))


def _has_header(handle: Handle, key: BlockKey) -> bool:
    length = key.end - key.start
    header = handle.read(0, _HEADER.size)
    if len(header) != _HEADER.size or handle.stat().size != _HEADER.size + length:
        return False
    magic, identity, _, told = _HEADER.unpack(header)
    return (magic, identity, told) == (_MAGIC, key.identity(), length)


def _has_checksum(handle: Handle, key: BlockKey) -> bool:
    import google_crc32c

    length = key.end - key.start
    crc = 0
    for start in range(0, length, _CHUNK_BYTES):
        chunk = handle.read(_HEADER.size + start, min(_CHUNK_BYTES, length - start))
        crc = google_crc32c.extend(crc, chunk)
    return crc == _HEADER.unpack(handle.read(0, _HEADER.size))[2]
