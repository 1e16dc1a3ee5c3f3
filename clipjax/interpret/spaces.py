"""A space of units: one path of a scan, its facets, and the activations of blocks of its units."""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from clipjax.config.errors import UserError, did_you_mean
from clipjax.interpret.detect_settings import DetectSettings
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.scan_files import Scan
from clipjax.interpret.statistics.ranks import CHUNK_ENTRIES
from clipjax.interpret.summaries import UnitSummary

EMBED = "shared/embed"

Values = Float[np.ndarray, "rows units"]

_NAME = re.compile(r"(?P<path>.+):(?P<index>\d+)(?P<sign>[+-]?)")


@dataclasses.dataclass(frozen=True)
class UnitName:
    """Which unit is meant.

    Attributes:
        path: of the model.
        index: along the path's last axis.
        sign: "+" or "-" where either direction is a unit, else "".

    >>> UnitName.parse("shared/embed:5-")
    UnitName(path='shared/embed', index=5, sign='-')
    """

    path: str
    index: int
    sign: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.index}{self.sign}"

    @classmethod
    def parse(cls, text: str) -> "UnitName":
        """Returns the unit that a text names.

        Raises:
            UserError: if it names none.
        """
        found = _NAME.fullmatch(text)
        if found is None:
            raise UserError(
                f"{text!r} names no unit: expected PATH:INDEX, such as image/blocks/1/mlp_act:17 "
                "or shared/embed:5+."
            )
        return cls(found["path"], int(found["index"]), found["sign"])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """The units of one path.

    Where a coordinate may be negative and its sign is a choice, as in an embedding without a ReLU,
    either direction is a unit: first all that are taken as they are (+), then all others (-).

    Attributes:
        scan: that has their activations.
        path: of the model.
        facets: that are tested, two or more.
        weak: facets with too few positives of any concept for a test: a find must reach the AUROC
            there, and no p value says how sure that is.
        controls: facets in which no concept ought to be found.
        signed: whether both directions are units.
        basis: orthogonal matrix that replaces the axes; None for those of the model.
    """

    scan: Scan
    path: str
    facets: tuple[str, ...]
    weak: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    signed: bool = False
    basis: Float[np.ndarray, "width width"] | None = None

    @property
    def shown(self) -> tuple[str, ...]:
        """Facets that are no controls: first those that are tested."""
        return (*self.facets, *self.weak)

    @property
    def width(self) -> int:
        """Coordinates of the path."""
        return self.scan.record.paths[self.path]

    @property
    def units(self) -> int:
        """Units, both directions counted."""
        return self.width * (2 if self.signed else 1)

    @property
    def stored(self) -> bool:
        """Whether activations were kept."""
        return self.scan.record.store != "none"

    def unit_name(self, unit: int) -> UnitName:
        """Returns the name of a unit by its place."""
        sign = ("+" if unit < self.width else "-") if self.signed else ""
        return UnitName(self.path, unit % self.width, sign)

    def rows(self, facet: str) -> FacetRows:
        """Returns the stimuli of a facet."""
        return self.scan.rows(facet)

    def summary(self, facet: str) -> UnitSummary:
        """Returns what the scan kept of each coordinate, whatever its sign."""
        if facet not in self._known:
            self._known[facet] = self.scan.summary(facet, self.path)
        return self._known[facet]

    @functools.cached_property
    def _known(self) -> dict[str, UnitSummary]:
        return {}

    def blocks(self) -> Iterator[slice]:
        """Yields the units in blocks whose activations, in all facets, fit in memory."""
        rows = sum(len(self.rows(facet).stimuli) for facet in (*self.shown, *self.controls))
        step = max(1, CHUNK_ENTRIES // max(1, rows))
        for first in range(0, self.units, self.width):
            for start in range(first, first + self.width, step):
                yield slice(start, min(start + step, first + self.width))

    def values(self, facet: str, units: slice | Sequence[int]) -> Values:
        """Returns activations of some units, float64; a unit's direction is up.

        Codes are read as the middle of their bin: the order is that of the codes.

        Raises:
            UserError: if the scan kept none.
        """
        numbers: Int[np.ndarray, " units"] = np.arange(self.units)[units]
        columns = numbers % self.width
        if self.basis is not None:
            out = self._read(facet, np.arange(self.width)) @ self.basis[:, columns]
        else:
            out = self._read(facet, columns)
        return np.where(numbers < self.width, out, -out) if self.signed else out

    def _read(self, facet: str, columns: Int[np.ndarray, " units"]) -> Values:
        array = self.scan.activations(facet, self.path)
        if len(columns) and (np.diff(columns) == 1).all():  # a slice of a mapped file is no copy
            part = np.asarray(array[:, columns[0] : columns[-1] + 1])
        else:
            part = np.asarray(array[:, columns])
        if part.dtype != np.uint8:
            return part.astype(np.float64)
        return np.take_along_axis(self._bin_middles(facet, columns), part.T.astype(np.int64), 1).T

    def _bin_middles(self, facet: str, columns: np.ndarray) -> np.ndarray:
        summary = self.summary(facet)
        low, high = summary.low[columns, None], summary.high[columns, None]
        edges = np.concatenate([low, summary.edges[columns], high], axis=1, dtype=np.float64)
        # Edges come from the first stimuli: later ones may lie outside of them, or none may.
        edges = np.maximum.accumulate(edges, axis=1)
        return (edges[:, 1:] + edges[:, :-1]) / 2


def spaces_of(scan: Scan, settings: DetectSettings) -> tuple[list[Space], list[str]]:
    """Returns the spaces that can be tested, and a line for each path that cannot.

    Raises:
        UserError: if a facet or path is misspelt, or no path runs two of the facets.
    """
    tested, controls = _chosen(scan, settings)
    spaces, lines = [], []
    for path in _fitting(scan, settings.units):
        facets = tuple(name for name in tested if name in scan.facets_of(path))
        if len(facets) < max(2, settings.required or 2):
            few = (settings.required or 2) <= 2
            needed = "two or more" if few else f"{settings.required} (--required)"
            lines.append(
                f"{path}: not tested; it runs {', '.join(facets) or 'no facet'} of "
                f"{', '.join(tested)}, and {needed} are needed"
            )
            continue
        space = Space(
            scan=scan,
            path=path,
            facets=facets,
            controls=tuple(name for name in controls if name in scan.facets_of(path)),
            signed=is_signed(scan, path, facets),
        )
        spaces.append(space)
    if not spaces:
        raise UserError(f"{scan.path}: no units can be tested. {'. '.join(lines)}.")
    return spaces, lines


def is_signed(scan: Scan, path: str, facets: Sequence[str]) -> bool:
    """Returns whether both directions of a path's coordinates are units, by these facets."""
    # A ReLU leaves nothing below 0: then the axis has one direction.
    return path == EMBED and any(float(scan.summary(f, path).low.min()) < 0 for f in facets)


def _chosen(scan: Scan, settings: DetectSettings) -> tuple[list[str], list[str]]:
    for name in settings.facets:
        if name not in scan.facets:
            raise UserError(
                f"{scan.path}: no facet {name!r}.{did_you_mean(name, scan.facets)} There are "
                f"{', '.join(scan.facets)}."
            )
    controls = [name for name in scan.facets if scan.rows(name).is_control]
    for name in settings.facets:
        if name in controls:
            raise UserError(
                f"{scan.path}: {name} is a control, in which no concept ought to be found. It is "
                "scored anyway: leave it out of the facets."
            )
    wanted = settings.facets or tuple(name for name in scan.facets if name not in controls)
    return list(dict.fromkeys(wanted)), controls


def _fitting(scan: Scan, patterns: Sequence[str]) -> list[str]:
    paths = scan.record.paths
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            raise UserError(
                f"{scan.path}: no scanned path fits {pattern!r}.{did_you_mean(pattern, paths)} "
                f"There are {', '.join(paths)}."
            )
    return [path for path in paths if any(fnmatch.fnmatchcase(path, p) for p in patterns)]
