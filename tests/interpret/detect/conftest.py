"""Scans whose truth is known, written as a scan of a model writes them."""

import types

import numpy as np
import pytest
from scipy.stats import rankdata

from clipjax.data.concepts import Concept
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.scan_files import ScanRecord, write_scan
from clipjax.interpret.summaries import summarise

PATH = "image/blocks/0/mlp_act"


def rows_of(name, labels, confounds=None, *, tower="image", is_control=False, stimuli=None):
    count = len(labels)
    stimuli = tuple(f"s{i}" for i in range(count)) if stimuli is None else tuple(stimuli)
    confounds = np.zeros((count, 0)) if confounds is None else confounds
    return FacetRows(
        name=name,
        tower=tower,
        is_control=is_control,
        stimuli=stimuli,
        samples=count,
        texts=tuple(
            " ".join(f"thing{c}" for c in np.flatnonzero(row)) + f" number {i}"
            for i, row in enumerate(labels)
        ),
        labels=np.asarray(labels, bool),
        confounds=confounds,
        confound_names=tuple(f"confound{i}" for i in range(confounds.shape[1])),
    )


def write(out, rows, activations, *, paths=None, store="exact", bins=256, exemplars=10):
    """Writes activations by facet; all units are of one path unless `paths` says otherwise."""
    width = next(iter(activations.values())).shape[1]
    paths = paths or {PATH: width}
    concepts = next(iter(rows.values())).labels.shape[1]
    record = ScanRecord(
        model="planted",
        identity="planted",
        step=0,
        config={},
        stimuli="planted",
        paths=paths,
        facets={name: tuple(paths) for name in rows},
        pool="max",
        store=store,
        bins=bins,
        exemplars=exemplars,
    )
    exact = {name: array.astype(np.float32) for name, array in activations.items()}
    summaries = {
        name: summarise(array, bins=bins, exemplars=exemplars) for name, array in exact.items()
    }
    kept = exact
    if store == "codes":
        kept = {
            name: np.stack(
                [
                    np.searchsorted(edges, column, side="right")
                    for edges, column in zip(summaries[name].edges, array.T, strict=True)
                ],
                axis=1,
            ).astype(np.uint8)
            for name, array in exact.items()
        }
    sums = {
        name: rankdata(array, axis=0).T @ rows[name].labels.astype(np.float64)
        for name, array in exact.items()
    }
    known = [Concept(f"c{i}", f"thing{i}", (f"thing{i}",)) for i in range(concepts)]
    return write_scan(out, record, known, rows, kept, summaries, sums)


def write_planted(out, planted, *, confounded=False, **options):
    names = [f"facet{m}" for m in range(len(planted.activations))]
    confounds = planted.confounds if confounded else None
    rows = {name: rows_of(name, planted.labels, confounds) for name in names}
    return write(out, rows, dict(zip(names, planted.activations, strict=True)), **options)


@pytest.fixture(scope="session")
def plants():
    """What writes scans whose truth is known."""
    return types.SimpleNamespace(rows_of=rows_of, write=write, write_planted=write_planted)
