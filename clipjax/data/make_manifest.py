"""Makes manifests: looks at every shard of a pool once, then at the pool as a whole.

What the steps over the whole pool need (scores, hashes, matched entries) waits in temporary files,
so no shard is read twice and the memory is that of one number a sample.
"""

import collections
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from clipjax.config.errors import UserError, did_you_mean
from clipjax.core.progress import Progress
from clipjax.data.balance import Matches
from clipjax.data.curation import (
    HASH,
    MATCH_COUNTS,
    MATCHED,
    NO_HASH,
    NUMBER,
    TOP_SHARE,
    Contribution,
    Curation,
    contribution,
    shard_columns,
)
from clipjax.data.duplicates import first_of_each
from clipjax.data.manifest import FILE, INDEXES, Manifest, make_manifest
from clipjax.data.ordered_map import ordered_map
from clipjax.data.storage import Storage, is_remote, shown
from clipjax.data.tar_index import open_index, opened
from clipjax.data.writers import make_folder

_SHOWN_DAMAGED = 20


class Pool:
    """The samples of some shards, and which of them are left after each step.

    Use it as a context: what waits in files is gone at its end.

    Args:
        urls: of the shards, in order.
        needs: suffixes that a sample must have besides an image.
        curation: what decides.
        folder: where numbers wait; None if no step looks at the whole pool.

    Attributes:
        dropped: samples that are not used, by reason.
        about: figures of the steps over the whole pool.
    """

    def __init__(
        self,
        urls: Sequence[str],
        needs: Sequence[str],
        curation: Curation,
        folder: str | os.PathLike[str] | None = None,
    ):
        self.urls, self._needs, self._curation = list(urls), tuple(needs), curation
        self._folder = folder
        self._exits = contextlib.ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._indexes: list[tuple[int, bytes]] = []
        self._used: list[np.ndarray] = []  # bits
        scores = curation.scores
        self._scored = np.zeros(len(scores) if scores is not None else 0, bool)
        self.dropped: collections.Counter[str] = collections.Counter()
        self.about: dict[str, Any] = {}
        self._bytes, self._damage = 0, collections.Counter[str]()
        self._lost_bytes, self._damaged = 0, dict[str, str]()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def survey(
        self,
        *,
        storage: Storage,
        index_dir: str | None = None,
        checksums: bool = False,
        threads: int = 8,
    ) -> None:
        """Opens the index of every shard and asks its samples what can be asked one by one.

        The result is the same whatever the threads.

        Raises:
            UserError: if a shard cannot be read, or a key with a score occurs twice.
        """

        def one(url: str) -> Contribution:
            return contribution(
                url,
                self._needs,
                self._curation,
                storage=storage,
                index_dir=index_dir,
                checksums=checksums,
            )

        with Progress("reading shards", len(self.urls), "shards") as progress:
            found = ordered_map(one, self.urls, threads=threads)
            for url, part in zip(self.urls, found, strict=True):
                self._add(url, part)
                progress.advance(detail=self._said())

    def narrow(self) -> None:
        """Takes the steps over the whole pool: top shares, duplicates, balance."""
        for number, share in enumerate(self._curation.top_shares):
            self._top_share(f"{TOP_SHARE} {number}", share.name, share.column, number)
        if self._curation.duplicates is not None:
            self._first_of_duplicates(self._curation.duplicates)
        if self._curation.balance is not None:
            self._balance()

    def figures(self) -> dict[str, Any]:
        """Returns counts of shards, samples, bytes and damage."""
        return {
            "shards": len(self._indexes),
            "all_samples": sum(total for total, _ in self._indexes),
            "samples": sum(self._counts()),
            "dropped": dict(sorted(self.dropped.items())),
            "bytes": self._bytes,
            "damage": {
                "shards": len(self._damaged),
                "by_reason": dict(sorted(self._damage.items())),
                "lost_bytes": self._lost_bytes,
                "first": dict(list(self._damaged.items())[:_SHOWN_DAMAGED]),
            },
            **self.about,
        }

    def save(
        self, out: str | os.PathLike[str], figures: dict[str, Any], made_by: dict[str, Any]
    ) -> Manifest:
        """Writes the manifest of what is left and returns it.

        Args:
            out: folder.
            figures: of `figures`.
            made_by: what it says of how it was made; JSON-able.
        """
        counts = list(self._counts())
        manifest = make_manifest(self.urls, self._indexes, counts, self._needs, figures["dropped"])
        about = {name: value for name, value in figures.items() if name != "dropped"}
        return manifest.save(out, self._each_used(), {**about, "made_by": made_by})

    def _add(self, url: str, part: Contribution) -> None:
        seen, places = self._scored, part.score_places
        if len(np.unique(places)) < len(places) or seen[places].any():
            raise UserError(
                f"{shown(url)}: holds keys that have a score and occur in another shard too, so "
                "whose score it is cannot be told. Give every sample of the pool a key of its own."
            )
        seen[places] = True
        self._indexes.append((len(part.used), part.digest))
        self._used.append(np.packbits(part.used))
        self.dropped.update(part.dropped)
        self._bytes += part.size
        self._damage.update(part.damage.harmful())
        self._lost_bytes += part.damage.lost_bytes
        if part.damage:
            self._damaged[shown(url)] = part.damage.summary()
        for name, array in part.arrays.items():
            np.save(self._file(name), array, allow_pickle=False)

    def _file(self, name: str) -> IO[bytes]:
        if name not in self._files:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            self._files[name] = self._exits.enter_context(file)
        return self._files[name]

    def _arrays(self, name: str) -> Iterator[np.ndarray]:
        """Yields an array of each shard, in order."""
        file = self._file(name)
        file.seek(0)
        for _ in self._indexes:
            yield np.load(file, allow_pickle=False)

    def _each_used(self) -> Iterator[np.ndarray]:
        for packed, (total, _) in zip(self._used, self._indexes, strict=True):
            yield np.unpackbits(packed, count=total).astype(bool)

    def _counts(self) -> Iterator[int]:
        return (int(np.count_nonzero(used)) for used in self._each_used())

    def _drop(self, reason: str, shard: int, bad: np.ndarray) -> None:
        used = np.unpackbits(self._used[shard], count=self._indexes[shard][0]).astype(bool)
        if count := int(np.count_nonzero(used & bad)):
            self.dropped[reason] += count
            self._used[shard] = np.packbits(used & ~bad)

    def _top_share(self, name: str, reason: str, column: str, number: int) -> None:
        scores = [found[~np.isnan(found)] for found in self._arrays(name)]
        pool = np.concatenate(scores) if scores else np.zeros(0)
        del scores
        threshold = self._curation.top_shares[number].threshold(pool)
        for shard, numbers in enumerate(self._arrays(name)):
            self._drop(f"no {column}", shard, np.isnan(numbers))
            self._drop(reason, shard, ~(numbers >= threshold))
        above = self.about.setdefault("thresholds", {})
        above[f"{column} top {self._curation.top_shares[number].share:g}"] = threshold

    def _first_of_duplicates(self, of: str) -> None:
        for shard, missing in enumerate(self._arrays(NO_HASH)):
            self._drop(f"no {of}", shard, missing)
        hashes, end = np.empty(sum(self._counts()), np.uint64), 0
        for used, found in zip(self._each_used(), self._arrays(HASH), strict=True):
            left = found[used]
            hashes[end : end + len(left)] = left
            end += len(left)
        first, start = first_of_each(hashes), 0
        for shard, used in enumerate(self._each_used()):
            stop = start + int(np.count_nonzero(used))
            again = np.zeros(len(used), bool)
            again[np.flatnonzero(used)[~first[start:stop]]] = True
            self._drop(f"duplicate {of}", shard, again)
            start = stop

    def _balance(self) -> None:
        balance = self._curation.balance
        assert balance is not None
        before = self._entry_counts()
        for shard, (matches, numbers) in enumerate(
            zip(self._matches(), self._arrays(NUMBER), strict=True)
        ):
            self._drop("no entry", shard, matches.counts == 0)
            self._drop("balance", shard, ~balance.keep(matches, numbers, before))
        self.about["balance"] = balance.figures(before, self._entry_counts())

    def _entry_counts(self) -> np.ndarray:
        balance = self._curation.balance
        assert balance is not None
        counts = np.zeros(len(balance.metadata), np.int64)
        for matches, used in zip(self._matches(), self._each_used(), strict=True):
            counts += balance.count(matches, used)
        return counts

    def _matches(self) -> Iterator[Matches]:
        counts, entries = self._arrays(MATCH_COUNTS), self._arrays(MATCHED)
        return (Matches(*pair) for pair in zip(counts, entries, strict=True))

    def _said(self) -> str:
        parts = [f"{count:,} {reason}" for reason, count in self.dropped.most_common(3)]
        damaged = [f"{len(self._damaged):,} damaged shards"] if self._damaged else []
        return ", ".join(([f"dropped {', '.join(parts)}"] if parts else []) + damaged)


def index_shards(
    urls: Sequence[str],
    needs: Sequence[str],
    *,
    storage: Storage,
    checksums: bool = False,
    threads: int = 8,
) -> dict[str, Any]:
    """Builds the index of every shard that lacks one, beside it; returns the figures of the pool.

    Raises:
        UserError: if a shard cannot be read.
    """
    with Pool(urls, needs, Curation()) as pool:
        pool.survey(storage=storage, checksums=checksums, threads=threads)
        return pool.figures()


def write_manifest(
    urls: Sequence[str],
    out: str | os.PathLike[str],
    needs: Sequence[str],
    curation: Curation,
    *,
    storage: Storage,
    made_by: dict[str, Any],
    checksums: bool = False,
    threads: int = 8,
) -> dict[str, Any]:
    """Writes a manifest of what a curation leaves of some shards, and returns its figures.

    The indexes of shards that are not on this machine are written with it.

    Args:
        urls: of the shards, in the order in which they are to be listed.
        out: folder; a manifest that lies there is replaced at the end.
        needs: suffixes that a sample must have besides an image.
        curation: what decides.
        storage: reads the shards.
        made_by: what the manifest says of how it was made; JSON-able.
        checksums: whether indexes must have them.
        threads: that read.

    Raises:
        UserError: if a shard cannot be read, the folder holds another manifest.json, or no sample
            is left.
    """
    check_out(out)
    make_folder(out)
    index_dir = os.path.join(out, INDEXES) if any(map(is_remote, urls)) else None
    with Pool(urls, needs, curation, out) as pool:
        pool.survey(storage=storage, index_dir=index_dir, checksums=checksums, threads=threads)
        pool.narrow()
        figures = pool.figures()
        if not figures["samples"]:
            hint = _columns_there_are(urls[0], curation, storage, index_dir)
            dropped = ", ".join(f"{count:,} {why}" for why, count in pool.dropped.most_common())
            raise UserError(
                f"{shown(urls[0])}: no sample is left of {figures['all_samples']:,} in "
                f"{len(urls):,} shards (dropped {dropped}).{hint}"
            )
        manifest = pool.save(out, figures, made_by)
    return {**figures, "out": os.fspath(out), "digest": manifest.digest}


def check_out(out: str | os.PathLike[str]) -> None:
    """Raises UserError if a folder holds a manifest.json that is none of ours, or is a file."""
    path = Path(out) / FILE
    if Path(out).exists() and not Path(out).is_dir():
        raise UserError(f"{out}: is a file; expected a folder to write the manifest into.")
    if path.exists():
        try:
            Manifest.load(out)
        except UserError as error:
            about = path.read_bytes()[:4096]
            if b'"needs"' not in about or b'"format"' not in about:
                raise UserError(
                    f"{path}: is no manifest of shards, and would be replaced. Choose another "
                    "folder with --out."
                ) from error


def _columns_there_are(
    url: str, curation: Curation, storage: Storage, index_dir: str | None
) -> str:
    if not curation.columns:
        return ""
    index = open_index(url, index_dir, storage=storage)
    with opened(url, storage) as read:
        names = shard_columns(index, read, curation, storage).names()
    unknown = [name for name in curation.columns if name not in names]
    if not unknown:
        return ""
    there_are = ", ".join(repr(name[:40]) for name in names[:30]) or "none"
    return (
        f" There is no column {unknown[0]!r}.{did_you_mean(unknown[0], names)} Found: {there_are}."
    )
