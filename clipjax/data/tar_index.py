"""Where every file of a tar shard lies, remembered beside the shard.

One pass over the headers; afterwards any sample costs one `pread` a file. The index is rebuilt
when the size or the modification time of the shard has changed.
"""

import contextlib
import dataclasses
import hashlib
import os
import tarfile
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from clipjax.config.errors import UserError

HEADER_BYTES = 512
_VERSION = 1
_SUFFIX = ".clipjax-index.npz"


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard, in the order of the tar.

    Attributes:
        path: the shard.
        size: its bytes.
        mtime_ns: its modification time.
        keys: one a sample; WebDataset's key, the path up to the first dot of the file name.
        suffixes: kinds of files that occur, e.g. ("jpg", "json", "txt").
        offsets: int64 [samples, suffixes], of the first byte of the content; -1 where missing.
        sizes: int64 [samples, suffixes], bytes.
        header_crcs: uint32 [samples, suffixes], CRC-32 of the 512 bytes before the content.
    """

    path: str
    size: int
    mtime_ns: int
    keys: tuple[str, ...]
    suffixes: tuple[str, ...]
    offsets: np.ndarray
    sizes: np.ndarray
    header_crcs: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def digest(self) -> str:
        """Returns a hash of the content's layout; the same wherever the shard lies."""
        hasher = hashlib.sha256(_join((*self.keys, *self.suffixes)))
        for array in (self.sizes, self.header_crcs):
            hasher.update(np.ascontiguousarray(array).tobytes())
        return hasher.hexdigest()


def open_index(path: str, index_dir: str | None = None) -> ShardIndex:
    """Returns the index of a shard, from its cache where that is still true.

    Args:
        path: a local tar file.
        index_dir: where indexes are cached; None for beside the shard, or in the user's cache
            directory where that cannot be written.

    Raises:
        UserError: if the shard cannot be read, is damaged or holds two files of one name.
    """
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Check data.root and data.shards.") from error
    places = _places(path, index_dir)
    for place in places:
        index = _load(place, path, stat)
        if index is not None:
            return index
    index = _build(path, stat)
    for place in places:
        if _save(place, index):
            break
    return index


def _places(path: str, index_dir: str | None) -> list[Path]:
    name = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:24] + _SUFFIX
    if index_dir is not None:
        return [Path(index_dir) / name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [Path(path + _SUFFIX), cache / "clipjax" / "indexes" / name]


def _build(path: str, stat: os.stat_result) -> ShardIndex:
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:", encoding="utf-8") as tar:
            for member in tar:
                if member.size < 0:  # would send `tarfile` back, and round in circles
                    raise tarfile.ReadError(f"negative size of {member.name!r}")
                if not member.isfile():
                    continue
                if member.issparse():
                    raise UserError(
                        f"{path}: {member.name!r} is stored as a sparse file. Write the shard "
                        "again without `tar --sparse`."
                    )
                key, suffix = _split(member.name)
                files = samples.setdefault(key, {})
                if suffix in files:
                    raise UserError(
                        f"{path}: {member.name!r} occurs twice, so samples cannot be told apart. "
                        "Write the shard again with distinct keys."
                    )
                files[suffix] = (member.offset_data, member.size)
            end = tar.offset
        with open(path, "rb") as file:
            _check_end(path, file.fileno(), end, stat.st_size, samples)
            headers = _header_crcs(file.fileno(), samples)
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: cannot be read as a tar shard ({error}). Expected an uncompressed WebDataset "
            ".tar; make it again or take it out of data.shards."
        ) from error
    suffixes = tuple(sorted({suffix for files in samples.values() for suffix in files}))
    shape = (len(samples), len(suffixes))
    offsets, sizes = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    crcs = np.zeros(shape, np.uint32)
    for row, (key, files) in enumerate(samples.items()):
        for suffix, (offset, size) in files.items():
            column = suffixes.index(suffix)
            offsets[row, column], sizes[row, column] = offset, size
            crcs[row, column] = headers[key, suffix]
    return ShardIndex(
        path, stat.st_size, stat.st_mtime_ns, tuple(samples), suffixes, offsets, sizes, crcs
    )


def _split(name: str) -> tuple[str, str]:
    """Splits at the first dot of the file name, as WebDataset does.

    >>> _split("a.b/0001.seg.png")
    ('a.b/0001', 'seg.png')
    """
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _check_end(
    path: str, handle: int, end: int, size: int, samples: dict[str, dict[str, tuple[int, int]]]
) -> None:
    """Raises unless only zeros follow: `tarfile` stops silently at a damaged header.

    And unless they follow: a shard that was cut between two files still reads, with fewer samples.
    """
    files = [entry for sample in samples.values() for entry in sample.values()]
    reach = max((offset + length for offset, length in files), default=0)
    if reach > size:
        raise UserError(
            f"{path}: truncated: its last file should end at byte {reach:,}, the shard has "
            f"{size:,}. Copy or make it again."
        )
    if end >= size:
        raise UserError(
            f"{path}: truncated: after {len(samples):,} samples the end-of-archive mark is missing."
            " Copy or make the shard again; if it is still being written, wait."
        )
    while chunk := os.pread(handle, 1 << 20, end):
        if chunk.count(0) != len(chunk):
            raise UserError(
                f"{path}: damaged tar header near byte {end:,}; {len(samples):,} samples lie "
                "before it and an unknown number behind. Copy or make the shard again."
            )
        end += len(chunk)


def _join(names: Iterable[str]) -> bytes:
    return "\0".join(names).encode(errors="surrogateescape")  # names need not be UTF-8


def _header_crcs(
    handle: int, samples: dict[str, dict[str, tuple[int, int]]]
) -> dict[tuple[str, str], int]:
    return {
        (key, suffix): zlib.crc32(os.pread(handle, HEADER_BYTES, offset - HEADER_BYTES))
        for key, files in samples.items()
        for suffix, (offset, _) in files.items()
    }


def _load(place: Path, path: str, stat: os.stat_result) -> ShardIndex | None:
    try:
        # Opened here: of a damaged file `np.load` would leave the handle open.
        with open(place, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            version, size, mtime_ns = arrays["stamp"].tolist()
            if (version, size, mtime_ns) != (_VERSION, stat.st_size, stat.st_mtime_ns):
                return None
            names = bytes(arrays["names"]).decode(errors="surrogateescape").split("\0")
            count, kinds = arrays["offsets"].shape
            if len(names) != count + kinds:  # no files at all, or a name with a zero byte
                return None
            return ShardIndex(
                path,
                size,
                mtime_ns,
                tuple(names[:count]),
                tuple(names[count:]),
                arrays["offsets"],
                arrays["sizes"],
                arrays["header_crcs"],
            )
    except OSError:
        return None  # absent
    except Exception:
        return None  # of an older version, or damaged, where zipfile and NumPy raise a dozen kinds


def _save(place: Path, index: ShardIndex) -> bool:
    names = _join((*index.keys, *index.suffixes))
    temporary = place.with_name(f".index-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Not `tempfile`, whose files only their owner may read: shards are shared.
        with open(temporary, "wb") as file:
            np.savez(
                file,
                stamp=np.array([_VERSION, index.size, index.mtime_ns], np.int64),
                names=np.frombuffer(names, np.uint8),
                offsets=index.offsets,
                sizes=index.sizes,
                header_crcs=index.header_crcs,
            )
        os.replace(temporary, place)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True
