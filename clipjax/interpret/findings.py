"""What was found in a scan: to be searched, shown, and written as neurons.json and neurons.npz."""

import contextlib
import dataclasses
import functools
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from clipjax.config.errors import UserError, did_you_mean
from clipjax.core.files import replaced
from clipjax.core.metrics import strict_json
from clipjax.data.words import words_of
from clipjax.interpret.scan_files import RECORD
from clipjax.interpret.spaces import UnitName

SCHEMA = 1
JSON, ARRAYS = "neurons.json", "neurons.npz"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """The findings of a scan.

    Attributes:
        content: plain values, as in neurons.json.
        arrays: auroc, p, q, effect, found and replicated of all pairs of each space, float32;
            empty if they were read from neurons.json.
    """

    content: Mapping[str, Any]
    arrays: Mapping[str, Shaped[np.ndarray, "..."]] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Findings":
        """Returns the findings in the folder of a scan, without their arrays.

        Raises:
            UserError: if there are none, or they are of another schema or of another scan than the
                one that is there.
        """
        where = Path(path) / JSON
        try:
            content = json.loads(where.read_text(encoding="utf-8"))
            schema = content["schema"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{where}: cannot be read ({type(error).__name__}). Test the scan first: clipjax "
                f"neurons test --scan {path}."
            ) from error
        if schema != SCHEMA:
            raise UserError(
                f"{where}: has schema {schema}, this release reads {SCHEMA}. Test the scan again."
            )
        if content.get("scan") and content["scan"] != _key_of_scan(path, content["scan"]):
            raise UserError(
                f"{where}: is of another scan than the one that is there now. Test the scan again: "
                f"clipjax neurons test --scan {path}."
            )
        return cls(content=content)

    def units(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Returns the listed units, the strongest first.

        Args:
            kind: such as "multimodal-same" or "unimodal"; "multimodal" for the first alone, as a
                unit with one concept in all required facets is called; all if None.

        Raises:
            UserError: if there is no such kind, with the nearest one.
        """
        units = list(self.content["units"])
        if kind is None:
            return units
        kinds = sorted({k for space in self.content["spaces"] for k in space["kinds"]})
        wanted = "multimodal-same" if kind == "multimodal" else kind
        if wanted not in {*kinds, "multimodal-same"}:
            raise UserError(
                f"no unit is {kind!r}.{did_you_mean(kind, kinds)} There are {', '.join(kinds)}."
            )
        return [unit for unit in units if unit["kind"] == wanted]

    def search(self, text: str) -> list[dict[str, Any]]:
        """Returns the listed units that a text fits, the best first.

        First those with a concept of that name or with that word, and of these the ones that
        answer to this concept most surely; then those of whose words it is one, then those with
        exemplars that say it, those with most of them first.

        Raises:
            UserError: if nothing fits, with the nearest name.
        """
        wanted = tuple(words_of(text))
        if not wanted:
            raise UserError(f"{text!r} holds no word to search for.")
        known = self._words_of_concepts
        ranked = []
        for place, unit in enumerate(self.content["units"]):
            meant = _concept_meant(wanted, unit, known)
            fit = meant[0] if meant else _fit_of_words(wanted, unit)
            if fit is not None:
                ranked.append((fit, place, unit))
        if not ranked:
            names = {name for names in known.values() for name in names}
            names |= {word for unit in self.content["units"] for word in unit["words"]}
            raise UserError(
                f"no listed unit answers to {text!r}.{did_you_mean(text.lower(), sorted(names))}"
            )
        return [unit for *_, unit in sorted(ranked, key=lambda row: row[:2])]

    def concept_meant(self, unit: Mapping[str, Any], text: str) -> dict[str, Any] | None:
        """Returns that concept of a unit which a text names; its first if none; None without any.

        Args:
            unit: such as `search` returns.
            text: that was looked for.
        """
        meant = _concept_meant(tuple(words_of(text)), unit, self._words_of_concepts)
        return meant[1] if meant else next(iter(unit["concepts"]), None)

    def show(self, unit: str) -> dict[str, Any]:
        """Returns a listed unit.

        Args:
            unit: its name, such as "image/blocks/1/mlp_act:17".

        Raises:
            UserError: if it is not listed, with the nearest one.
        """
        name = str(UnitName.parse(unit))
        listed = {one["unit"]: one for one in self.content["units"]}
        if name not in listed:
            raise UserError(
                f"{name} is not among the {len(listed):,} listed units: no concept was found for "
                f"it, or --most left it out.{did_you_mean(name, listed)}"
            )
        return listed[name]

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes neurons.json, whole or not at all."""
        with replaced(Path(path)) as file:
            file.write(_as_lines(self.content).encode())

    def save_arrays(self, path: str | os.PathLike[str]) -> None:
        """Writes neurons.npz, whole or not at all; names are "PATH:NAME"."""
        with written_arrays(path) as keep:
            for name, array in self.arrays.items():
                keep(name, array)

    @functools.cached_property
    def _words_of_concepts(self) -> dict[str, list[str]]:
        return {
            concept["id"]: [concept["name"], *concept["words"]]
            for concept in self.content["data"]["concepts"]
        }


def _key_of_scan(path: str | os.PathLike[str], default: str) -> str:
    """Returns the key of the scan in a folder; the default where none can be read."""
    try:
        fields = json.loads((Path(path) / RECORD).read_text(encoding="utf-8"))
        return fields.get("key", "")
    except (OSError, ValueError, AttributeError):
        return default


@contextlib.contextmanager
def written_arrays(
    path: str | os.PathLike[str],
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Gives a function that writes one array after the other into a file as of `np.savez`.

    It takes the place of `path` when the block ends without an error.
    """
    with replaced(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:

        def keep(name: str, array: np.ndarray) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)

        yield keep


def _concept_meant(
    wanted: tuple[str, ...], unit: Mapping[str, Any], known: dict[str, list[str]]
) -> tuple[tuple[float, ...], dict[str, Any]] | None:
    """Returns how well the unit's concept that a text names best fits, and this concept.

    Fits are compared as tuples, the least is the best: exactly named, found, replicated, strong.
    """
    fits = []
    for place, concept in enumerate(unit["concepts"]):
        names = [tuple(words_of(name)) for name in known.get(concept["concept"], ())]
        if any(set(wanted) <= set(name) for name in names):
            inexact = float(wanted not in names)
            doubts = (not concept["found"], not concept["replicated"], -(concept["effect"] or 0.0))
            fits.append(((inexact, *map(float, doubts)), place, concept))
    if not fits:
        return None
    fit, _, concept = min(fits, key=lambda one: one[:2])
    return fit, concept


def _fit_of_words(wanted: tuple[str, ...], unit: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Returns how well a text fits what a unit's exemplars say; None if it does not."""
    if set(wanted) <= {*unit["words"], *words_of(unit["label"])}:
        return (2.0,)
    texts = (one["text"] for exemplars in unit["top"].values() for one in exemplars)
    said = sum(set(wanted) <= set(words_of(text)) for text in texts)
    return (3.0, -float(said)) if said else None


def _as_lines(content: Mapping[str, Any]) -> str:
    """Returns JSON with a line for each field, and one for each item of a list of objects."""
    fields = []
    for name, value in content.items():
        text = strict_json(value)
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            items = ",\n  ".join(strict_json(item) for item in value)
            text = f"[\n  {items}\n ]"
        fields.append(f" {strict_json(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"
