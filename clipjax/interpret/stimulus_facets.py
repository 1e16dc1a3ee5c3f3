"""Facets made of pictures and of texts, and what is measured of them before a model sees them."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipjax.config import UserError
from clipjax.core.progress import Progress
from clipjax.data.concepts import Concept, ConceptIndex
from clipjax.data.decode import BadSampleError, decode_image
from clipjax.data.ordered_map import ordered_map
from clipjax.data.resize import EvaluationTransform
from clipjax.data.tokenizers import Tokenizer
from clipjax.interpret.confounds import (
    PICTURE_CONFOUNDS,
    TEXT_CONFOUNDS,
    labels_of_words,
    mean_of_views,
    picture_confounds,
    text_confounds,
)
from clipjax.interpret.facets import FacetRows

Pixels = UInt8[np.ndarray, "height width 3"]
Picture = bytes | Pixels
"""The file of a picture, or its pixels."""

_MAX_PIXELS = 64_000_000
_QUIET_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What a facet shows, sample by sample.

    Attributes:
        name: of the facet.
        is_control: see `FacetRows`.
        stimuli: id of each row, all different.
        texts: of each row, those of its samples or others that say what it is.
        owner: row of each sample, ascending.
        labels: see `FacetRows`.
        extra: confounds that are known already, by name, one number a row.
    """

    name: str
    is_control: bool = False
    stimuli: tuple[str, ...]
    texts: Sequence[Sequence[str]]
    owner: Int[np.ndarray, " samples"]
    labels: Bool[np.ndarray, "rows concepts"]
    extra: Mapping[str, Float[np.ndarray, " rows"]] = dataclasses.field(default_factory=dict)

    def rows(self, tower: Any, names: Sequence[str], measured: np.ndarray) -> FacetRows:
        """Returns what is known of the rows.

        Args:
            tower: "image" or "text".
            names: of the confounds that were measured.
            measured: [samples, confounds].
        """
        means = mean_of_views(measured, self.owner, len(self.stimuli))
        return FacetRows(
            name=self.name,
            tower=tower,
            is_control=self.is_control,
            stimuli=self.stimuli,
            samples=len(self.owner),
            texts=tuple(texts[0] if texts else "" for texts in self.texts),
            labels=self.labels,
            confounds=np.column_stack([means, *self.extra.values()]),
            confound_names=(*names, *self.extra),
        )


class PictureFacet:
    """Pictures by number, as the model of `transform` sees them. All are looked at once, now.

    Args:
        shown: whose they are.
        read: the picture of a sample; threads call it.
        transform: of the model.
        side: of its pictures.

    Raises:
        UserError: if a picture does not decode.
    """

    def __init__(
        self,
        shown: Shown,
        read: Callable[[int], Picture],
        transform: EvaluationTransform,
        side: int,
    ):
        self._read, self._transform, self._side = read, transform, side
        self._name, self._stimuli, self.owner = shown.name, shown.stimuli, shown.owner
        measured = self._measured(len(shown.owner))
        self.rows = shown.rows("image", PICTURE_CONFOUNDS, measured)

    def fill(self, sample: int, out: UInt8[np.ndarray, "side side 3"]) -> None:
        """Writes a sample into `out`; see `Facet.fill`."""
        self._fill(sample, out)

    def text(self, sample: int) -> str:
        """Raises TypeError: a picture is no text."""
        raise TypeError(f"facet {self._name}: sample {sample} is a picture")

    def picture(self, row: int) -> Pixels:
        """Returns the first view of a row, as large as it is."""
        found = self._read(int(np.searchsorted(self.owner, row)))
        return decode_image(found, _MAX_PIXELS) if isinstance(found, bytes) else found

    def _fill(self, sample: int, out: np.ndarray) -> int | None:
        """Writes a sample; returns the size of its file, if it has one."""
        try:
            found = self._read(sample)
            if isinstance(found, bytes):
                self._transform.of_file(found, _MAX_PIXELS, out)
                return len(found)
            self._transform(found, out)
            return None
        except BadSampleError as error:
            stimulus = self._stimuli[self.owner[sample]]
            raise UserError(
                f"facet {self._name}: the picture of {stimulus} cannot be used ({error}). Mend it "
                "or leave the stimulus out: without it the statistics would have a hole."
            ) from error

    def _measured(self, count: int) -> np.ndarray:
        def measure(sample: int) -> np.ndarray:
            out = np.empty((self._side, self._side, 3), np.uint8)
            return picture_confounds(out, self._fill(sample, out))

        rows = np.empty((count, len(PICTURE_CONFOUNDS)))
        told = Progress(f"measuring {self._name}", count, "pictures", quiet_seconds=_QUIET_SECONDS)
        with told as progress:
            threads = len(os.sched_getaffinity(0))
            for sample, row in enumerate(ordered_map(measure, range(count), threads=threads)):
                rows[sample] = row
                progress.advance()
        return rows


class TextFacet:
    """Texts by number.

    Args:
        shown: whose they are.
        texts: one a sample.
        tokenizer: of the model, to count tokens; without one words are counted.
    """

    def __init__(self, shown: Shown, texts: Sequence[str], tokenizer: Tokenizer | None = None):
        self._name, self._texts, self.owner = shown.name, texts, shown.owner
        self.rows = shown.rows("text", TEXT_CONFOUNDS, text_confounds(texts, tokenizer))

    def fill(self, sample: int, out: UInt8[np.ndarray, "side side 3"]) -> None:  # noqa: ARG002
        """Raises TypeError: a text is no picture."""
        raise TypeError(f"facet {self._name}: sample {sample} is a text")

    def text(self, sample: int) -> str:
        """Returns a sample."""
        return self._texts[sample]

    def picture(self, row: int) -> None:
        """Returns None: there is nothing to see of row `row`."""


def labels_of(
    concepts: Sequence[Concept], facet: str, stimuli: Sequence[str], texts: Sequence[Sequence[str]]
) -> Bool[np.ndarray, "rows concepts"]:
    """Returns whether each row of a facet shows each concept.

    Where a concept lists its positives, these count: those of the facet, or of all facets where it
    is not among them. Where it lists none, a word of it in the texts of the row does.

    Args:
        concepts: that are looked for.
        facet: its name.
        stimuli: id of each row.
        texts: of each row.
    """
    by_words = ConceptIndex(concepts)
    labels = labels_of_words(texts, by_words.of, len(concepts))
    for column, concept in enumerate(concepts):
        if concept.positives:
            everywhere = (one for ids in concept.positives.values() for one in ids)
            positive = set(concept.positives.get(facet, everywhere))
            labels[:, column] = [one in positive for one in stimuli]
    return labels
