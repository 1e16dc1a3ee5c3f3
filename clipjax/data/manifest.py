"""Which shards there are and which of their samples are used: fixed before a run begins.

A manifest of a million shards takes some tens of bytes each in memory; what is inside a shard is
read from its index when the shard is.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clipjax.config.errors import UserError
from clipjax.core.files import DAMAGED_ARRAYS
from clipjax.data.tar_index import ShardIndex

FILE = "manifest.json"
INDEXES = "indexes"
_ARRAYS, _ROWS, _FORMAT = "shards.npz", "rows.bin", 1


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
    """Shards in their order, with the number of samples that are used of each.

    Attributes:
        names: uint8, the paths or URLs one after the other, UTF-8.
        name_ends: int64 [shards], where each ends in `names`.
        counts: int64 [shards], samples that are used.
        totals: int64 [shards], samples in the shard.
        digests: uint8 [shards, 16], of the index of each; empty where they are not known.
        digest: of all of it.
        needs: suffixes that every sample that is used has, besides an image.
        folder: where the manifest lies, or None.
        dropped: samples that are not used, by reason.
    """

    names: np.ndarray
    name_ends: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    digests: np.ndarray
    digest: str = ""
    needs: tuple[str, ...] = ()
    folder: Path | None = None
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.name_ends)

    @classmethod
    def of_urls(cls, urls: Sequence[str]) -> "Manifest":
        """Returns shards of which nothing is known but their names."""
        names, ends = _joined(urls)
        nothing = np.zeros(len(urls), np.int64)
        return cls(names, ends, nothing, nothing, np.zeros((0, 16), np.uint8))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Manifest":
        """Reads the manifest that `save` or `clipjax data index` wrote into a folder.

        Raises:
            UserError: if it is not one, or was written half.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if about["format"] != _FORMAT:
                raise UserError(
                    f"{folder / FILE}: of format {about['format']}, wanted {_FORMAT}. Make it "
                    "again with `clipjax data index`."
                )
            with open(folder / _ARRAYS, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
            made = cls(
                **found,
                digest=about["digest"],
                needs=tuple(about["needs"]),
                folder=folder,
                dropped=about["dropped"],
            )
        except DAMAGED_ARRAYS as error:
            raise UserError(
                f"{folder}: no manifest of shards can be read there ({error}). Make it with "
                "`clipjax data index`."
            ) from error
        made._check_sizes()
        return made

    def save(
        self,
        folder: str | os.PathLike[str],
        rows: Iterable[np.ndarray] | None,
        about: Mapping[str, Any],
    ) -> "Manifest":
        """Writes the manifest into a folder and returns it; until all is written there is none.

        Of shards whose samples are all used nothing but that is written, so a pool that is used
        whole has no file of rows.

        Args:
            folder: made if it is missing.
            rows: bool [samples] of each shard, which are used; None where all of every shard are.
            about: what else `manifest.json` says; JSON-able.
        """
        if rows is None and not np.array_equal(self.counts, self.totals):
            raise ValueError("rows=None, but not every sample of every shard is used")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).unlink(missing_ok=True)
        hasher = hashlib.sha256()
        # Under other names first: a run that is under way reads the old files by memory map.
        with _replacing(folder / _ROWS) as file:
            for packed in self._packed_rows(rows) if rows is not None else ():
                hasher.update(packed)
                file.write(packed)
        with _replacing(folder / _ARRAYS) as file:
            np.savez(
                file,
                names=self.names,
                name_ends=self.name_ends,
                counts=self.counts,
                totals=self.totals,
                digests=self.digests,
            )
        if not (folder / _ROWS).stat().st_size:
            (folder / _ROWS).unlink()
        for array in (self.counts, self.totals, self.digests):
            hasher.update(np.ascontiguousarray(array).tobytes())
        digest = hasher.hexdigest()
        described = {
            "format": _FORMAT,
            "shards": len(self),
            "samples": int(self.counts.sum()),
            "needs": list(self.needs),
            "dropped": dict(self.dropped),
            "digest": digest,
            **about,
        }
        with _replacing(folder / FILE) as file:
            file.write((json.dumps(described, indent=1) + "\n").encode())
        return dataclasses.replace(self, digest=digest, folder=folder)

    def url(self, shard: int) -> str:
        """Returns the path or URL of a shard."""
        start = int(self.name_ends[shard - 1]) if shard else 0
        return self.names[start : int(self.name_ends[shard])].tobytes().decode()

    def rows(self, shard: int) -> np.ndarray | None:
        """Returns the rows of a shard's index that are used; None for all that are complete."""
        if self.folder is None:
            return None
        total = int(self.totals[shard])
        if self.counts[shard] == total:
            return np.arange(total)
        start = int(self._row_ends[shard]) - (total + 7) // 8
        packed = self._packed[start : int(self._row_ends[shard])]
        rows = np.flatnonzero(np.unpackbits(packed, count=total))
        if len(rows) != self.counts[shard]:
            raise UserError(
                f"{self.folder}: {_ROWS} is damaged ({len(rows):,} samples of shard {shard:,} are "
                f"used, wanted {self.counts[shard]:,}). Make the manifest again with "
                "`clipjax data index`."
            )
        return rows

    def agrees(self, shard: int, index: ShardIndex) -> bool:
        """Returns whether an index is that of the shard which was listed."""
        if not len(self.digests):
            return True
        return short_digest(index) == self.digests[shard].tobytes()

    def check_needs(self, needs: Sequence[str]) -> None:
        """Raises UserError unless every sample that is listed has what is needed."""
        if lacking := [need for need in needs if need not in self.needs]:
            raise UserError(
                f"{self.folder}: was made for samples with .{', .'.join(self.needs)}, wanted "
                f".{', .'.join(lacking)}. Make it again with `clipjax data index --needs`."
            )

    @property
    def num_incomplete(self) -> int:
        """Samples that are not used since a file of theirs is missing."""
        return int(self.dropped.get("incomplete", 0))

    @functools.cached_property
    def _row_ends(self) -> np.ndarray:
        return np.cumsum(np.where(self.counts == self.totals, 0, (self.totals + 7) // 8))

    def _packed_rows(self, rows: Iterable[np.ndarray]) -> Iterator[bytes]:
        """Yields the bits of the shards that are used in part."""
        shards = zip(rows, self.counts.tolist(), self.totals.tolist(), strict=True)
        for shard, (used, count, total) in enumerate(shards):
            if (np.count_nonzero(used), len(used)) != (count, total):
                raise ValueError(f"shard {shard}: its rows are not those that were counted")
            if count < total:
                yield np.packbits(used).tobytes()

    def _check_sizes(self) -> None:
        """Raises UserError unless the arrays and the file of rows fit each other."""
        assert self.folder is not None
        rows, wanted = self.folder / _ROWS, int(self._row_ends[-1]) if len(self) else 0
        lengths = {len(self.counts), len(self.totals), len(self.digests) or len(self), len(self)}
        found = rows.stat().st_size if rows.exists() else 0
        if len(lengths) > 1 or found != wanted or (self.counts > self.totals).any():
            raise UserError(
                f"{self.folder}: the files of this manifest do not belong together ({_ROWS} has "
                f"{found:,} bytes, wanted {wanted:,}). Copy the whole folder, or make it again "
                "with `clipjax data index`."
            )

    @functools.cached_property
    def _packed(self) -> np.ndarray:
        assert self.folder is not None
        return np.memmap(self.folder / _ROWS, np.uint8, mode="r")


def is_manifest(address: str) -> bool:
    """Returns whether a path is a folder with a manifest, or its manifest.json."""
    path = Path(address)
    return path.name == FILE or (path / FILE).is_file()


def make_manifest(
    urls: Sequence[str],
    indexes: Sequence[tuple[int, bytes]],
    counts: Sequence[int],
    needs: Sequence[str],
    dropped: Mapping[str, int],
) -> Manifest:
    """Returns a manifest that is not saved yet.

    Args:
        urls: of the shards.
        indexes: samples and digest of each.
        counts: samples that are used of each.
        needs: suffixes that they all have.
        dropped: samples that are not used, by reason.
    """
    names, ends = _joined(urls)
    digests = np.frombuffer(b"".join(digest for _, digest in indexes), np.uint8).reshape(-1, 16)
    totals = np.array([total for total, _ in indexes], np.int64)
    return Manifest(
        names,
        ends,
        np.asarray(counts, np.int64),
        totals,
        digests,
        needs=tuple(needs),
        dropped=dict(dropped),
    )


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        yield file
    os.replace(temporary, path)


def short_digest(index: ShardIndex) -> bytes:
    """Returns 16 bytes that tell the layout of one shard from others."""
    return bytes.fromhex(index.digest())[:16]


def _joined(urls: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    encoded = [os.fspath(url).encode() for url in urls]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends
