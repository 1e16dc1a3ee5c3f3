"""Puts ink on pictures: masks of written words, moved, and on plates of paper."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

Mask = UInt8[np.ndarray, "side side"]
Picture = UInt8[np.ndarray, "side side 3"]
Box = tuple[int, int, int, int]
"""Top, left, bottom and right in pixels."""


def written(
    picture: Picture,
    mask: Mask,
    plate: Box,
    ink: tuple[int, ...],
    paper: tuple[int, ...],
) -> Picture:
    """Returns a picture with a plate of paper on it, and ink on the plate.

    Args:
        picture: is not changed.
        mask: where the ink is.
        plate: where the paper is.
        ink: colour.
        paper: colour.
    """
    top, left, bottom, right = plate
    out = picture.astype(np.float64)
    out[top:bottom, left:right] = paper
    share = mask[..., None] / 255
    return np.rint(share * ink + (1 - share) * out).astype(np.uint8)


def plate_of(masks: Sequence[Mask], *, margin: int = 1) -> Box:
    """Returns what holds the ink of all masks, with so many pixels of paper around it."""
    rows, columns = np.nonzero(np.maximum.reduce(masks))
    height, width = masks[0].shape
    return (
        max(int(rows.min()) - margin, 0),
        max(int(columns.min()) - margin, 0),
        min(int(rows.max()) + 1 + margin, height),
        min(int(columns.max()) + 1 + margin, width),
    )


def centred(mask: Mask, place: Box) -> Mask:
    """Returns a mask with its ink moved to the middle of a place, as far as that fits."""
    top, left, bottom, right = place
    inside = plate_of([mask], margin=0)
    height, width = inside[2] - inside[0], inside[3] - inside[1]
    wanted = round((top + bottom - height) / 2), round((left + right - width) / 2)
    most = mask.shape[0] - height, mask.shape[1] - width
    return moved(mask, min(max(wanted[0], 0), most[0]), min(max(wanted[1], 0), most[1]))


def moved(mask: Mask, top: int, left: int) -> Mask:
    """Returns a mask whose ink begins at a row and a column; it must fit there.

    >>> moved(np.diag(np.array([9, 0, 0], np.uint8)), 2, 1).tolist()
    [[0, 0, 0], [0, 0, 0], [0, 9, 0]]
    """
    first, start, last, stop = plate_of([mask], margin=0)
    height, width = last - first, stop - start
    if not (0 <= top <= mask.shape[0] - height and 0 <= left <= mask.shape[1] - width):
        raise ValueError(
            f"ink of {height} x {width} pixels does not fit at row {top}, column {left} of "
            f"{mask.shape[0]} x {mask.shape[1]}"
        )
    out = np.zeros_like(mask)
    out[top : top + height, left : left + width] = mask[first:last, start:stop]
    return out
