"""The folder that a scan of a model's units writes: what was seen, and how each unit answered.

    scan.json               what was scanned, with which settings; written last
    concepts.json           what is looked for, as `clipjax.data.concepts` has it
    facets/NAME.npz         the stimuli of a facet: ids, labels, confounds
    activations/NAME.npy    [stimuli, units], views averaged: float32, or uint8 quantile codes
    summaries/NAME.npz      exemplars and histograms of all units
    controls/NAME           scans of other models, with the same stimuli

Units of one facet stand side by side, path by path, in the order of `ScanRecord.paths`.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from clipjax.config.errors import UserError, did_you_mean
from clipjax.core.files import DAMAGED_ARRAYS, replaced
from clipjax.data.concepts import Concept, load_concepts, save_concepts
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.summaries import UnitSummary

SCHEMA = 1
RECORD, CONCEPTS = "scan.json", "concepts.json"
FACETS, ACTIVATIONS, SUMMARIES = "facets", "activations", "summaries"
CONTROLS = "controls"

_OF_UNITS = tuple(f.name for f in dataclasses.fields(UnitSummary) if f.name != "rows")

Store = Literal["exact", "codes", "none"]
"""Whether activations are kept as float32, as one byte each, or not at all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanRecord:
    """What was scanned.

    Attributes:
        model: where it came from, as the user named it.
        identity: another one for other weights.
        step: of the checkpoint.
        config: of the model, as plain values.
        stimuli: where they came from.
        reading: how they were read, see `Stimuli.reading`.
        paths: width of every unit path.
        facets: of each facet, the paths that it runs, in their order.
        pool: how places became one number: "max", "mean", "cls" or "eot".
        store: how activations are kept.
        bins: of histograms and codes.
        exemplars: kept of each unit.
        seed: of the order of samples.
        seconds: of wall time.
        devices: how many, and what they are.
        key: another one for another scan; "" where none was kept.
    """

    model: str
    identity: str
    step: int
    config: Mapping[str, Any]
    stimuli: str
    paths: Mapping[str, int]
    facets: Mapping[str, tuple[str, ...]]
    pool: str
    store: Store = "exact"
    bins: int
    exemplars: int
    seed: int = 0
    seconds: float = 0.0
    devices: str = ""
    reading: Mapping[str, str] = dataclasses.field(default_factory=dict)
    key: str = ""

    def columns(self, facet: str, path: str) -> slice:
        """Returns where the units of a path stand among those of a facet."""
        first = 0
        for one in self.facets[facet]:
            if one == path:
                return slice(first, first + self.paths[one])
            first += self.paths[one]
        raise KeyError(f"{facet} does not run {path}")

    def width(self, facet: str) -> int:
        """Returns how many units a facet runs."""
        return sum(self.paths[path] for path in self.facets[facet])


class Scan:
    """A folder that a scan has written.

    Args:
        path: of the folder.

    Attributes:
        record: what was scanned.
        concepts: what is looked for, in the order of `FacetRows.labels`.

    Raises:
        UserError: if there is no whole scan.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        where = self.path / RECORD
        try:
            fields = json.loads(where.read_text(encoding="utf-8"))
            schema = fields.pop("schema")
            if schema != SCHEMA:
                raise UserError(
                    f"{where}: has schema {schema}, this release reads {SCHEMA}. Scan again "
                    "with --force."
                )
            fields["facets"] = {name: tuple(paths) for name, paths in fields["facets"].items()}
            self.record = ScanRecord(**fields)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{where}: not a whole scan ({type(error).__name__}). Make one, or go on with one: "
                "clipjax neurons scan."
            ) from error
        self.concepts: list[Concept] = load_concepts(self.path / CONCEPTS)

    @property
    def facets(self) -> tuple[str, ...]:
        """Names of the facets."""
        return tuple(self.record.facets)

    def facets_of(self, path: str) -> tuple[str, ...]:
        """Returns the facets that run the units of a path.

        Raises:
            UserError: if the path was not scanned, with the nearest one.
        """
        if path not in self.record.paths:
            raise UserError(
                f"{self.path}: {path!r} was not scanned.{did_you_mean(path, self.record.paths)} "
                f"There are {', '.join(self.record.paths)}."
            )
        return tuple(name for name, paths in self.record.facets.items() if path in paths)

    @functools.cached_property
    def _rows(self) -> dict[str, FacetRows]:
        return {name: _read_rows(self.path / FACETS / f"{name}.npz") for name in self.facets}

    def rows(self, facet: str) -> FacetRows:
        """Returns the stimuli of a facet.

        Raises:
            UserError: if there is no such facet, with the nearest name.
        """
        self._check_facet(facet)
        return self._rows[facet]

    def activations(self, facet: str, path: str) -> Shaped[np.ndarray, "rows units"]:
        """Returns activations, mapped from the file and not to be written.

        float32, or uint8 codes in the order of the activations.

        Raises:
            UserError: if the scan kept none, or the facet does not run the path.
        """
        self._check_runs(facet, path)
        file = self.path / ACTIVATIONS / f"{facet}.npy"
        if self.record.store == "none":
            raise UserError(
                f"{self.path}: kept no activations (store=none). Scan again with --force and "
                "--store exact or --store codes."
            )
        with _reading(file):
            array = np.lib.format.open_memmap(file, mode="r")
        return array[:, self.record.columns(facet, path)]

    def summary(self, facet: str, path: str) -> UnitSummary:
        """Returns exemplars, histograms and moments of the units of a path.

        Raises:
            UserError: if the facet does not run the path.
        """
        self._check_runs(facet, path)
        part = self.record.columns(facet, path)
        file = self.path / SUMMARIES / f"{facet}.npz"
        with _reading(file):
            arrays = _load(file)
            rows = int(arrays["rows"])
            kept: dict[str, Any] = {name: arrays[name][part] for name in _OF_UNITS}
        return UnitSummary(rows=rows, **kept)

    def rank_sums(self, facet: str, path: str) -> np.ndarray:
        """Returns sums of ranks over the stimuli of each concept, float64 [units, concepts].

        Ranks are estimated from the first stimuli; see `clipjax.interpret.scanning`.
        """
        self._check_runs(facet, path)
        part = self.record.columns(facet, path)
        file = self.path / SUMMARIES / f"{facet}.npz"
        with _reading(file):
            return _load(file)["rank_sums"][part]

    def _check_facet(self, facet: str) -> None:
        if facet not in self.record.facets:
            raise UserError(
                f"{self.path}: no facet {facet!r}.{did_you_mean(facet, self.facets)} There are "
                f"{', '.join(self.facets)}."
            )

    def _check_runs(self, facet: str, path: str) -> None:
        self._check_facet(facet)
        if facet not in self.facets_of(path):
            raise UserError(
                f"{self.path}: the facet {facet} does not run {path}, which "
                f"{', '.join(self.facets_of(path))} run."
            )


def write_scan(
    path: str | os.PathLike[str],
    record: ScanRecord,
    concepts: list[Concept],
    rows: Mapping[str, FacetRows],
    activations: Mapping[str, Shaped[np.ndarray, "rows units"]],
    summaries: Mapping[str, UnitSummary],
    rank_sums: Mapping[str, np.ndarray] | None = None,
) -> Scan:
    """Writes a scan whose arrays are all at hand, and opens it.

    Args:
        path: of the folder, new or of an earlier scan.
        record: what was scanned.
        concepts: in the order of the labels.
        rows: of each facet.
        activations: of each facet, all its units; left out with store "none".
        summaries: of each facet, all its units.
        rank_sums: likewise [units, concepts]; zeros by default.
    """
    path = Path(path)
    (path / RECORD).unlink(missing_ok=True)  # not whole until all is written
    for folder in (FACETS, ACTIVATIONS, SUMMARIES):
        (path / folder).mkdir(parents=True, exist_ok=True)
    for facet in record.facets:
        write_rows(path, rows[facet])
        if record.store != "none":
            np.save(path / ACTIVATIONS / f"{facet}.npy", activations[facet], allow_pickle=False)
        sums = None if rank_sums is None else rank_sums[facet]
        if sums is None:
            sums = np.zeros((record.width(facet), len(concepts)))
        write_summary(path, facet, summaries[facet], sums)
    finish_scan(path, record, concepts)
    return Scan(path)


def write_rows(path: Path, rows: FacetRows) -> None:
    """Writes the stimuli of a facet into the folder of a scan."""
    fields = {field.name: getattr(rows, field.name) for field in dataclasses.fields(rows)}
    lists = {"stimuli", "texts", "confound_names"}
    arrays = {
        name: np.array(json.dumps(value, ensure_ascii=False)) if name in lists else np.array(value)
        for name, value in fields.items()
    }
    with replaced(path / FACETS / f"{rows.name}.npz") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_summary(path: Path, facet: str, summary: UnitSummary, rank_sums: np.ndarray) -> None:
    """Writes what is kept of all units of a facet into the folder of a scan."""
    fields = {field.name: getattr(summary, field.name) for field in dataclasses.fields(summary)}
    with replaced(path / SUMMARIES / f"{facet}.npz") as file:
        np.savez(file, allow_pickle=False, rank_sums=rank_sums, **fields)


def finish_scan(path: Path, record: ScanRecord, concepts: list[Concept]) -> None:
    """Writes concepts and record: with them the scan is whole."""
    save_concepts(path / CONCEPTS, concepts)
    fields = {"schema": SCHEMA, **dataclasses.asdict(record)}
    with replaced(path / RECORD) as file:
        file.write((json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode())


def facet_is_whole(path: Path, record: ScanRecord, facet: str) -> bool:
    """Returns whether all files of a facet are in the folder of a scan and can be read."""
    try:
        rows = len(_read_rows(path / FACETS / f"{facet}.npz").stimuli)
        file = path / SUMMARIES / f"{facet}.npz"
        with _reading(file):
            arrays = _load(file)
            found = {len(arrays[name]) for name in (*_OF_UNITS, "rank_sums")}
            same = int(arrays["rows"]) == rows
        if record.store != "none":
            file = path / ACTIVATIONS / f"{facet}.npy"
            with _reading(file):
                kept = np.lib.format.open_memmap(file, mode="r")
            same = same and kept.shape == (rows, record.width(facet))
    except UserError:
        return False
    return same and found == {record.width(facet)}


def _read_rows(path: Path) -> FacetRows:
    with _reading(path):
        arrays = _load(path)
        fields: dict[str, Any] = {name: arrays[name] for name in ("labels", "confounds")}
        for name in ("stimuli", "texts", "confound_names"):
            fields[name] = tuple(json.loads(str(arrays[name])))
        for name in ("name", "tower", "is_control", "samples"):
            fields[name] = arrays[name].item()
        return FacetRows(**fields)


def _load(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Says which file it was that could not be read, cut short or without one of its arrays."""
    try:
        yield
    except DAMAGED_ARRAYS as error:
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}: {error}). Scan again."
        ) from error
