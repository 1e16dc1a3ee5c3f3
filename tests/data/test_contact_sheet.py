"""Pictures side by side: each in its place, whole, with its text under it."""

import time

import numpy as np
import pytest

from clipjax.data.contact_sheet import contact_sheet

EDGE, TEXT = 6, 45


def tile(sheet, columns, side, i):
    cell = side + 2 * EDGE
    top, left = i // columns * (cell + TEXT) + EDGE, i % columns * cell + EDGE
    return sheet[top : top + side, left : left + side]


def caption(sheet, columns, side, i):
    cell = side + 2 * EDGE
    top, left = i // columns * (cell + TEXT) + EDGE + side, i % columns * cell + EDGE
    return sheet[top + 2 : top + EDGE + TEXT, left : left + side]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 3, 2), (9, 3, 3)])
def test_every_picture_lies_whole_in_its_place(count, columns, rows):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (130, 130, 3), dtype=np.uint8) for _ in range(count)]
    sheet = np.asarray(contact_sheet(pictures, [f"number {i}" for i in range(count)]))
    assert sheet.shape == (rows * (142 + TEXT), columns * 142, 3)
    for i, picture in enumerate(pictures):
        np.testing.assert_array_equal(tile(sheet, columns, 130, i), picture)
        assert caption(sheet, columns, 130, i).min() < 100
    for i in range(count, rows * columns):
        assert tile(sheet, columns, 130, i).min() == 255


def test_small_pictures_are_enlarged_without_new_colours():
    small = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    sheet = np.asarray(contact_sheet([small], [""]))
    np.testing.assert_array_equal(tile(sheet, 1, 120, 0), small.repeat(30, 0).repeat(30, 1))


def test_what_is_missing_stays_grey_and_sizes_may_differ():
    pictures = [np.zeros((150, 150, 3), np.uint8), None, np.full((10, 10, 3), 9, np.uint8)]
    sheet = np.asarray(contact_sheet(pictures, ["a", "b", "c"]))
    assert np.unique(tile(sheet, 2, 150, 1)).tolist() == [211]
    assert np.unique(tile(sheet, 2, 150, 0)).tolist() == [0]
    assert np.unique(tile(sheet, 2, 150, 2)).tolist() == [9]
    assert np.unique(np.asarray(contact_sheet([None], [""]))[6:126, 6:126]).tolist() == [211]


def test_text_is_cut_to_three_lines_and_to_its_cell():
    grey = np.full((120, 120, 3), 128, np.uint8)
    start = time.monotonic()
    sheet = np.asarray(
        contact_sheet([grey] * 4, ["word " * 100_000, "", "W" * 500, "line\n\nline"])
    )
    assert time.monotonic() - start < 5
    for i in range(4):
        np.testing.assert_array_equal(tile(sheet, 2, 120, i), grey)
    assert caption(sheet, 2, 120, 1).min() == 255
    dark = (caption(sheet, 2, 120, 2) < 100).any((1, 2))
    lines = np.flatnonzero(np.diff(np.r_[False, dark, False].astype(int)) == 1)
    assert len(lines) == 3
    margin = sheet[:, 126:132]  # between the columns
    assert margin.min() == 255
