"""Where every file of a tar shard lies, remembered beside the shard.

One pass over the headers; afterwards any sample costs one `pread` a file. The index is rebuilt
when the size or the version (of a local file, the time of its last change) is another one.

The files of a sample lie side by side, as every writer of such shards leaves them, and only those
are taken together: what comes later under the same key, or behind a gap that damage has left, may
belong to another picture and is counted instead.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.tar_damage import Damage, DamageCounter
from clipjax.data.tar_header import BLOCK, parse_header
from clipjax.data.tar_walk import Member, TarWalk
from clipjax.data.tar_window import Read

HEADER_BYTES = BLOCK
_FORMAT = 2
_SUFFIX = ".clipjax-index.npz"
_OTHER_FORMATS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "Parquet",
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
}
_PAGES = (b"<html", b"<!doctype", b"<?xml")


@runtime_checkable
class Storage(Protocol):
    """Reads shards that lie in a bucket or behind a URL."""

    def stat(self, url: str) -> tuple[int, str]:
        """Returns the size and a version that changes with the content."""
        ...

    def read(self, url: str, offset: int, length: int) -> bytes:
        """Returns `length` bytes from `offset`."""
        ...


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard, in the order of the tar.

    Attributes:
        path: the shard, or its URL.
        size: its bytes.
        version: changes when the content does; of a local file, its modification time in ns.
        keys: one a sample; WebDataset's key, the path up to the first dot of the file name. They
            are labels that may hold anything, never paths.
        suffixes: kinds of files that occur, e.g. ("jpg", "json", "txt").
        offsets: int64 [samples, suffixes], of the first byte of the content; -1 where missing.
        sizes: int64 [samples, suffixes], bytes.
        header_crcs: uint32 [samples, suffixes], CRC-32 of the 512 bytes before the content.
        crcs: uint32 [samples, suffixes], CRC-32C of the content; zeros without checksums.
        has_checksums: whether `crcs` were taken.
        damage: what was wrong with the tar.
    """

    path: str
    size: int
    version: str
    keys: tuple[str, ...]
    suffixes: tuple[str, ...]
    offsets: np.ndarray
    sizes: np.ndarray
    header_crcs: np.ndarray
    crcs: np.ndarray
    has_checksums: bool
    damage: Damage

    def __len__(self) -> int:
        return len(self.keys)

    def digest(self) -> str:
        """Returns a hash of the content's layout; the same wherever the shard lies."""
        names = "\0".join((*self.keys, *self.suffixes))
        hasher = hashlib.sha256(names.encode(errors="surrogateescape"))
        for array in (self.sizes, self.header_crcs):
            hasher.update(np.ascontiguousarray(array).tobytes())
        return hasher.hexdigest()


def open_index(
    path: str,
    index_dir: str | None = None,
    *,
    checksums: bool = False,
    storage: Storage | None = None,
) -> ShardIndex:
    """Returns the index of a shard, from its cache where that is still true.

    Args:
        path: a tar file, or a URL that `storage` reads; the index of a URL has checksums always,
            because its contents travel.
        index_dir: where indexes are cached; None for beside the shard, or in the user's cache
            directory where that cannot be written.
        checksums: whether the CRC-32C of each content is needed, which reads the whole file.
        storage: reads the URLs.

    Raises:
        UserError: if the shard cannot be read or is no tar at all.
    """
    if is_url(path):
        if storage is None:
            raise UserError(f"{path}: no storage was given that reads URLs. Name a local file.")
        size, version = storage.stat(path)
        checksums = True
    else:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}. Check the name and its folder.") from error
        size, version = stat.st_size, str(stat.st_mtime_ns)
    places = _places(path, index_dir)
    for place in places:
        index = _load(place, path, size, version)
        if index is not None and (index.has_checksums or not checksums):
            return index
    with opened(path, storage) as read:
        index = build_index(path, size, version, read, checksums=checksums)
    for place in places:
        if _save(place, index):
            break
    return index


@contextlib.contextmanager
def opened(path: str, storage: Storage | None = None) -> Iterator[Read]:
    """Gives read(offset, length) of a shard until the block ends.

    Raises:
        UserError: if the file cannot be opened.
    """
    if storage is not None and is_url(path):
        yield lambda offset, length: storage.read(path, offset, length)
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    try:
        yield lambda offset, length: os.pread(handle, length, offset)
    finally:
        os.close(handle)


def is_url(path: str) -> bool:
    """Says whether a shard lies elsewhere.

    >>> is_url("gs://bucket/0.tar"), is_url("data/0.tar")
    (True, False)
    """
    return "://" in path


def build_index(path: str, size: int, version: str, read: Read, *, checksums: bool) -> ShardIndex:
    """Reads a whole tar, past any damage, and returns its index.

    Args:
        path: for messages.
        size: of the file.
        version: as in `ShardIndex`.
        read: gives bytes; with checksums it is asked for large stretches, nearly in order.
        checksums: whether to read the contents too.

    Raises:
        UserError: if the bytes cannot be read, or the file is no tar.
    """
    damage = DamageCounter()
    walk = TarWalk(read, size, damage, checksums=checksums)
    try:
        start = read(0, min(HEADER_BYTES, size))
        if parse_header(start) is None and (other := _other_format(start)):
            raise _unreadable(path, f"it is {other}")
        samples = _gather(walk, damage)
        if walk.is_doubtful:
            damage = DamageCounter()
            walk = TarWalk(read, size, damage, checksums=checksums, repeats=walk.repeats)
            samples = _gather(walk, damage)
    except (OSError, EOFError) as error:
        raise _unreadable(path, str(error)) from error
    if not walk.num_headers and damage.result():
        raise _unreadable(path, "no tar header in it" if size else "empty file")
    suffixes = tuple(sorted({suffix for files in samples.values() for suffix in files}))
    columns = {suffix: column for column, suffix in enumerate(suffixes)}
    shape = (len(samples), len(suffixes))
    offsets, sizes = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    header_crcs, crcs = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)
    for row, files in enumerate(samples.values()):
        for suffix, member in files.items():
            column = columns[suffix]
            offsets[row, column], sizes[row, column] = member.offset, member.size
            header_crcs[row, column], crcs[row, column] = member.header_crc, member.crc
    return ShardIndex(
        path,
        size,
        version,
        tuple(samples),
        suffixes,
        offsets,
        sizes,
        header_crcs,
        crcs,
        checksums,
        damage.result(),
    )


def _gather(members: Iterable[Member], damage: DamageCounter) -> dict[str, dict[str, Member]]:
    """Returns the files of each key: those of its first unbroken run of different suffixes."""
    samples: dict[str, dict[str, Member]] = {}
    current: str | None = None  # the key whose run is not over
    for member in members:
        key, suffix = _split(member.name)
        files = samples.get(key)
        if files is None:
            samples[key] = {suffix: member}
            current = key
        elif suffix in files:
            damage.add("duplicate member", member.name)
            doubtful = [*files.values(), member]
            if key == current and not all(file.checked_name for file in doubtful):
                # A flipped bit in a name that no checksum covers looks just so, and which of the
                # two is the stranger cannot be told.
                files.clear()
            current = None
        elif key != current or member.after_gap:
            damage.add("split sample", member.name)
            current = None
        else:
            files[suffix] = member
    return samples


def _split(name: str) -> tuple[str, str]:
    """Splits at the first dot of the file name, as WebDataset does.

    >>> _split("a.b/0001.seg.png")
    ('a.b/0001', 'seg.png')
    """
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _other_format(start: bytes) -> str:
    if start.lstrip().lower().startswith(_PAGES):
        return "a web page (HTML or XML)"
    return next((name for magic, name in _OTHER_FORMATS.items() if start.startswith(magic)), "")


def _unreadable(path: str, why: str) -> UserError:
    return UserError(
        f"{path}: cannot be read as a tar shard ({why}). Expected an uncompressed WebDataset "
        ".tar; make it again or leave it out."
    )


def _places(path: str, index_dir: str | None) -> list[Path]:
    remote = is_url(path)
    name = path if remote else os.path.abspath(path)
    name = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:24] + _SUFFIX
    if index_dir is not None:
        return [Path(index_dir) / name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    shared = cache / "clipjax" / "indexes" / name
    return [shared] if remote else [Path(path + _SUFFIX), shared]


def _load(place: Path, path: str, size: int, version: str) -> ShardIndex | None:
    try:
        # Opened here: of a damaged file `np.load` would leave the handle open.
        with open(place, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            about = json.loads(bytes(arrays["about"]))
            if [about["format"], about["size"], about["version"]] != [_FORMAT, size, version]:
                return None
            text, ends = bytes(arrays["names"]), np.cumsum(arrays["lengths"]).tolist()
            names = [
                text[start:end].decode(errors="surrogateescape")
                for start, end in zip([0, *ends], ends, strict=False)
            ]
            count, kinds = arrays["offsets"].shape
            if len(names) != count + kinds:
                return None
            return ShardIndex(
                path,
                size,
                version,
                tuple(names[:count]),
                tuple(names[count:]),
                arrays["offsets"],
                arrays["sizes"],
                arrays["header_crcs"],
                arrays["crcs"],
                about["has_checksums"],
                Damage(**about["damage"]),
            )
    except OSError:
        return None  # absent
    except Exception:
        return None  # of an older version, or damaged, where zipfile and NumPy raise a dozen kinds


def _save(place: Path, index: ShardIndex) -> bool:
    names = [name.encode(errors="surrogateescape") for name in (*index.keys, *index.suffixes)]
    about = {
        "format": _FORMAT,
        "size": index.size,
        "version": index.version,
        "has_checksums": index.has_checksums,
        "damage": dataclasses.asdict(index.damage),
    }
    temporary = place.with_name(f".index-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Not `tempfile`, whose files only their owner may read: shards are shared.
        with open(temporary, "wb") as file:
            np.savez(
                file,
                about=np.frombuffer(json.dumps(about).encode(), np.uint8),
                names=np.frombuffer(b"".join(names), np.uint8),
                lengths=np.array([len(name) for name in names], np.int64),
                offsets=index.offsets,
                sizes=index.sizes,
                header_crcs=index.header_crcs,
                crcs=index.crcs,
            )
        os.replace(temporary, place)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True
