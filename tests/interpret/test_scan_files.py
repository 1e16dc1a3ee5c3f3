import dataclasses
import json

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.data.concepts import Concept
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.scan_files import RECORD, Scan, ScanRecord, write_scan
from clipjax.interpret.summaries import quantile_edges, summarise

CONCEPTS = [Concept("cat", "cat", ("cat",)), Concept("dog", "dog", ("dog",))]


def rows(name="photo", count=6, tower="image"):
    return FacetRows(
        name=name,
        tower=tower,
        stimuli=tuple(f"s{i}" for i in range(count)),
        samples=count,
        texts=tuple(f"text {i}" for i in range(count)),
        labels=np.arange(count)[:, None] % 2 == np.arange(2),
        confounds=np.arange(count, dtype=np.float64)[:, None],
        confound_names=("luminance",),
    )


@pytest.fixture
def scan(tmp_path):
    rng = np.random.default_rng(0)
    record = ScanRecord(
        model="runs/a",
        identity="abc",
        step=3,
        config={"embed_dim": 2},
        stimuli="emoji",
        paths={"image/a": 3, "shared/embed": 2},
        facets={"photo": ("image/a", "shared/embed"), "caption": ("shared/embed",)},
        pool="max",
        bins=9,
        exemplars=4,
    )
    acts = {
        "photo": rng.normal(size=(6, 5)).astype(np.float32),
        "caption": rng.normal(size=(3, 2)).astype(np.float32),
    }
    summaries = {name: summarise(array, bins=9, exemplars=4) for name, array in acts.items()}
    found = {"photo": rows(), "caption": rows("caption", 3, "text")}
    return write_scan(tmp_path / "scan", record, CONCEPTS, found, acts, summaries), acts, found


def test_what_is_read_is_what_was_written(scan):
    scan, acts, found = scan
    assert scan.facets_of("shared/embed") == ("photo", "caption")
    assert scan.facets_of("image/a") == ("photo",)
    np.testing.assert_array_equal(scan.activations("photo", "image/a"), acts["photo"][:, :3])
    np.testing.assert_array_equal(scan.activations("photo", "shared/embed"), acts["photo"][:, 3:])
    again = scan.rows("photo")
    for field in dataclasses.fields(again):
        np.testing.assert_array_equal(
            getattr(again, field.name), getattr(found["photo"], field.name)
        )
    summary, whole = (
        scan.summary("photo", "shared/embed"),
        summarise(acts["photo"], bins=9, exemplars=4),
    )
    np.testing.assert_array_equal(summary.top_rows, whole.top_rows[3:])
    assert scan.concepts == CONCEPTS
    assert scan.rank_sums("caption", "shared/embed").shape == (2, 2)


def test_misspelt_names_are_told_with_the_nearest(scan):
    scan, _, _ = scan
    with pytest.raises(UserError, match="Did you mean 'image/a'"):
        scan.activations("photo", "image/b")
    with pytest.raises(UserError, match="Did you mean 'photo'"):
        scan.rows("phot")
    with pytest.raises(UserError, match="the facet caption does not run image/a"):
        scan.summary("caption", "image/a")


def test_a_scan_that_is_not_whole_or_of_another_schema_is_refused(scan):
    path = scan[0].path / RECORD
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "schema": 99}))
    with pytest.raises(UserError, match="has schema 99, this release reads 1"):
        Scan(path.parent)
    path.unlink()
    with pytest.raises(UserError, match="not a whole scan"):
        Scan(path.parent)


@pytest.mark.parametrize("kept", [0, 2, 150])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("facets/photo.npz", lambda scan: scan.rows("photo")),
        ("activations/photo.npy", lambda scan: scan.activations("photo", "image/a")),
        ("summaries/photo.npz", lambda scan: scan.summary("photo", "image/a")),
        ("summaries/photo.npz", lambda scan: scan.rank_sums("photo", "image/a")),
    ],
)
def test_files_that_are_cut_short_are_named(scan, name, read, kept):
    path = scan[0].path / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=rf"{name}: cannot be read .* Scan again\."):
        read(Scan(path.parents[1]))


def test_a_summary_without_an_array_is_refused(scan):
    path = scan[0].path / "summaries" / "photo.npz"
    np.savez(path, mean=np.zeros(5))
    with pytest.raises(UserError, match=r"photo\.npz: cannot be read \(KeyError"):
        scan[0].summary("photo", "image/a")


def test_a_stimulus_that_is_there_twice_is_refused():
    with pytest.raises(UserError, match="the stimulus 's1' is there twice"):
        dataclasses.replace(rows(), stimuli=("s0", "s1", "s1", "s3", "s4", "s5"))


def test_a_summary_counts_every_stimulus_and_keeps_the_extremes():
    acts = np.maximum(np.random.default_rng(1).normal(size=(500, 7)), 0).astype(np.float32)
    summary = summarise(acts, bins=32, exemplars=5)
    assert (summary.counts.sum(axis=1) == 500).all()
    np.testing.assert_allclose(summary.zeros, (acts == 0).mean(axis=0))
    # Half of the values are 0: they have a bin of their own.
    place = np.searchsorted(summary.edges[0], 0, side="right")
    assert summary.counts[0, place] == (acts[:, 0] == 0).sum()
    for unit in range(7):
        assert summary.top_values[unit].tolist() == sorted(acts[:, unit].tolist())[::-1][:5]
        assert (np.diff(summary.bottom_rows[unit]) > 0).all()  # ties: smaller rows first


def test_fewer_stimuli_than_exemplars_leave_gaps():
    summary = summarise(np.zeros((2, 1), np.float32), bins=4, exemplars=3)
    assert summary.top_rows.tolist() == [[0, 1, -1]]
    assert np.isnan(summary.top_values[0, 2])


def test_edges_are_ascending():
    edges = quantile_edges(np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32), 256)
    assert edges.shape == (3, 254)
    assert (np.diff(edges, axis=1) >= 0).all()
