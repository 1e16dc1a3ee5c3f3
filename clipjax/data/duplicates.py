"""Samples that are in a pool more than once, found by a hash of 64 bits."""

import numpy as np

from clipjax.data.columns import ShardColumns
from clipjax.data.key_table import text_hash
from clipjax.data.keyed import mix
from clipjax.data.sources.tar_table import ShardTable
from clipjax.data.tar_index import ShardIndex

IMAGE, CAPTION = "image", "caption"
_PART = 1 << 26  # hashes that are sorted at once


def image_hashes(index: ShardIndex, rows: np.ndarray) -> np.ndarray:
    """Returns CRC-32C and size of the encoded image of some rows, as one uint64 each.

    Equal files have equal ones. Of n different files of one size, about n squared / 2**33 pairs
    have too and are taken for copies.

    Args:
        index: with checksums.
        rows: that have an image.
    """
    if not index.has_checksums:
        raise ValueError(f"{index.path}: its index has no checksums")
    table = ShardTable.of_index(index, ("image",), rows)
    return (table.crcs[:, 0].astype(np.uint64) << np.uint64(32)) | table.sizes[:, 0]


def text_column_hashes(columns: ShardColumns, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a hash, uint64, of the caption or another column of each sample, and who lacks it.

    White space around a caption does not count; everything else does.
    """
    if column == CAPTION:
        texts = [text.strip() if text is not None else None for text in columns.captions()]
    else:
        texts = columns.texts(column)
    missing = np.array([text is None for text in texts], bool)
    return np.array([text_hash(text or "") for text in texts], np.uint64), missing


def first_of_each(hashes: np.ndarray, *, part: int = _PART) -> np.ndarray:
    """Returns, bool, whether no equal hash comes before.

    Besides the hashes and the result it takes memory for about `part` hashes and their places: they
    are sorted in parts, by their value, however many there are.

    >>> first_of_each(np.array([7, 9, 7, 7, 9, 8], np.uint64)).tolist()
    [True, True, False, False, False, True]
    """
    first = np.zeros(len(hashes), bool)
    parts = max(1, -(-len(hashes) // part))
    for number in range(parts):
        places = _places_of_part(hashes, number, parts, part)
        of_part = hashes[places]
        order = np.argsort(of_part, kind="stable")
        ordered = of_part[order]
        new = np.ones(len(ordered), bool)
        new[1:] = ordered[1:] != ordered[:-1]
        first[places[order[new]]] = True
    return first


def _places_of_part(hashes: np.ndarray, number: int, parts: int, block: int) -> np.ndarray:
    """Returns the places of the hashes of one part, ascending."""
    if parts == 1:
        return np.arange(len(hashes))
    found = []
    for start in range(0, len(hashes), block):
        # Mixed before the modulus: the low bits of sizes of files are not spread evenly.
        mixed = mix(hashes[start : start + block])
        found.append(start + np.flatnonzero(mixed % np.uint64(parts) == np.uint64(number)))
    return np.concatenate(found)
