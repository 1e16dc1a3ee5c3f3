"""What decides which samples of a pool are used, and what one shard contributes to that."""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.balance import Balance, sample_numbers
from clipjax.data.columns import ParquetColumns, ShardColumns, caption_columns
from clipjax.data.duplicates import CAPTION, IMAGE, image_hashes, text_column_hashes
from clipjax.data.filters import Filter, TopShare, apply_filters, in_order
from clipjax.data.key_table import KeyTable
from clipjax.data.manifest import short_digest
from clipjax.data.sources.tar_table import complete_rows
from clipjax.data.storage import Storage, StorageError, is_remote
from clipjax.data.tar_damage import Damage
from clipjax.data.tar_index import ShardIndex, open_index, opened
from clipjax.data.tar_walk import Read

TOP_SHARE, HASH, NO_HASH = "top share", "hash", "no hash"
NUMBER, MATCH_COUNTS, MATCHED = "number", "match counts", "matched"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Curation:
    """What decides which of the complete samples are used, in this order.

    Attributes:
        filters: asked in the order of `FILTERS`.
        top_shares: shares of the whole pool.
        duplicates: "image" (its encoded bytes), "caption" or a column, e.g. "sha256": of those
            that are equal the first that is left is used; None uses all.
        balance: thins out what is left.
        caption: where captions are, as in `data.caption`.
        scores: columns by key, from a file of their own.
        use_parquet: whether the Parquet files of img2dataset, which are faster than the .json
            members, are read where they lie beside the shards.
    """

    filters: tuple[Filter, ...] = ()
    top_shares: tuple[TopShare, ...] = ()
    duplicates: str | None = None
    balance: Balance | None = None
    caption: str = "txt"
    scores: KeyTable | None = None
    use_parquet: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are asked for, besides captions."""
        names = [column for filter_ in self.filters for column in filter_.columns]
        names += [share.column for share in self.top_shares]
        if self.duplicates not in (None, IMAGE, CAPTION):
            names.append(self.duplicates)
        return tuple(dict.fromkeys(names))

    @property
    def needs_checksums(self) -> bool:
        """Whether the contents of the shards must be read."""
        return self.duplicates == IMAGE


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Contribution:
    """What one shard contributes to a pool.

    Attributes:
        size: bytes of the shard.
        digest: of its index, 16 bytes.
        damage: what is wrong with it.
        used: bool [samples], those that are complete and pass every filter.
        dropped: the others by reason.
        arrays: what the steps over the whole pool ask for, by name.
        score_places: places in the table of scores, each sample's that is in it.
    """

    size: int
    digest: bytes
    damage: Damage
    used: np.ndarray
    dropped: collections.Counter[str]
    arrays: Mapping[str, np.ndarray]
    score_places: np.ndarray


def contribution(
    url: str,
    needs: Sequence[str],
    curation: Curation,
    *,
    storage: Storage,
    index_dir: str | None = None,
    checksums: bool = False,
) -> Contribution:
    """Opens the index of a shard, which is built if need be, and asks its samples everything.

    Args:
        url: of the shard.
        needs: suffixes that a sample must have besides an image.
        curation: what is asked.
        storage: reads the shard.
        index_dir: where indexes are cached; see `open_index`.
        checksums: whether the index gets them even if nothing here asks for them.

    Raises:
        UserError: if the shard, or a file beside it, cannot be read.
    """
    checksums = checksums or curation.needs_checksums
    index = open_index(url, index_dir, checksums=checksums, storage=storage)
    used = np.zeros(len(index), bool)
    rows = complete_rows(index, needs)
    used[rows] = True
    dropped = collections.Counter[str]()
    if len(rows) < len(index):
        dropped["incomplete"] = len(index) - len(rows)
    with opened(url, storage) as read:
        columns = shard_columns(index, read, curation, storage)
        arrays = _top_share_arrays(columns, curation, used)
        used, by_filters = apply_filters(columns, in_order(curation.filters), used)
        dropped.update(by_filters)
        arrays |= _duplicate_arrays(index, columns, curation, rows)
        arrays |= _balance_arrays(index, columns, curation, used)
        places = np.zeros(0, np.int64)
        if curation.scores is not None:
            places = columns.score_places[columns.score_places >= 0]
    return Contribution(
        size=index.size,
        digest=short_digest(index),
        damage=index.damage,
        used=used,
        dropped=dropped,
        arrays=arrays,
        score_places=places,
    )


def shard_columns(
    index: ShardIndex, read: Read, curation: Curation, storage: Storage
) -> ShardColumns:
    """Returns the columns of a shard that a curation asks for.

    Raises:
        UserError: if the Parquet file beside the shard cannot be read.
    """
    wanted = [*curation.columns, *caption_columns(curation.caption)]
    if curation.scores is not None:
        wanted = [name for name in wanted if name not in curation.scores.columns]
    parquet = None
    if curation.use_parquet and wanted:
        parquet = _parquet_beside(index.path, wanted, storage)
    return ShardColumns(
        index,
        read,
        wanted=wanted,
        caption=curation.caption,
        parquet=parquet,
        scores=curation.scores,
    )


def _parquet_beside(url: str, wanted: Sequence[str], storage: Storage) -> ParquetColumns | None:
    stem, suffix = os.path.splitext(url)
    if suffix != ".tar":
        return None
    name = f"{stem}.parquet"
    if is_remote(url):
        try:
            size, _ = storage.stat(name)
        except StorageError:
            return None
        return ParquetColumns(name, storage.read(name, 0, size), wanted)
    try:
        with open(name, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"{name}: cannot be read ({error.strerror}). Leave such files out with --no-parquet."
        ) from error
    return ParquetColumns(name, content, wanted)


def _top_share_arrays(
    columns: ShardColumns, curation: Curation, complete: np.ndarray
) -> dict[str, np.ndarray]:
    return {
        f"{TOP_SHARE} {number}": np.where(complete, columns.numbers(share.column), np.nan)
        for number, share in enumerate(curation.top_shares)
    }


def _duplicate_arrays(
    index: ShardIndex, columns: ShardColumns, curation: Curation, rows: np.ndarray
) -> dict[str, np.ndarray]:
    if curation.duplicates is None:
        return {}
    if curation.duplicates != IMAGE:
        hashes, missing = text_column_hashes(columns, curation.duplicates)
        return {HASH: hashes, NO_HASH: missing}
    hashes = np.zeros(len(index), np.uint64)
    hashes[rows] = image_hashes(index, rows)
    return {HASH: hashes, NO_HASH: np.zeros(len(index), bool)}


def _balance_arrays(
    index: ShardIndex, columns: ShardColumns, curation: Curation, used: np.ndarray
) -> dict[str, np.ndarray]:
    if curation.balance is None:
        return {}
    found = columns.captions() if used.any() else [None] * len(used)
    captions = [c if wanted else None for c, wanted in zip(found, used.tolist(), strict=True)]
    matches = curation.balance.metadata.match(captions)
    return {
        NUMBER: sample_numbers(short_digest(index), index.keys),
        MATCH_COUNTS: matches.counts,
        MATCHED: matches.entries,
    }
