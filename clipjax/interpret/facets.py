"""A facet is one way in which stimuli are shown or said: as a photo, a written word, a caption."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clipjax.config import UserError

Tower = Literal["image", "text"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FacetRows:
    """What is known of the stimuli of one facet before any model has seen them.

    Attributes:
        name: of the facet.
        tower: of the model that takes it.
        is_control: whether no concept ought to be found in it, as in scrambled words.
        stimuli: id of each row, all different. The same id in another facet is the same thing.
        samples: how many samples the rows have together; several views of one row are averaged.
        texts: what is shown or said, in words, of each row.
        labels: whether a stimulus shows a concept; in the order of the concepts of the scan.
        confounds: what could explain a unit instead of a concept, such as luminance.
        confound_names: of the columns of `confounds`.
    """

    name: str
    tower: Tower
    is_control: bool = False
    stimuli: tuple[str, ...]
    samples: int
    texts: tuple[str, ...]
    labels: Bool[np.ndarray, "rows concepts"]
    confounds: Float[np.ndarray, "rows confounds"]
    confound_names: tuple[str, ...] = ()

    def __post_init__(self):
        count = len(self.stimuli)
        parts = {
            "texts": len(self.texts),
            "labels": len(self.labels),
            "confounds": len(self.confounds),
        }
        for name, found in parts.items():
            if found != count:
                raise ValueError(f"facet {self.name}: {found} {name} of {count} stimuli")
        if self.confounds.shape[1] != len(self.confound_names):
            raise ValueError(f"facet {self.name}: confounds and their names differ in number")
        if len(set(self.stimuli)) != count:
            seen: set[str] = set()
            twice = next(one for one in self.stimuli if one in seen or seen.add(one))
            raise UserError(
                f"facet {self.name}: the stimulus {twice!r} is there twice. One stimulus is one "
                "row: give its views to that row."
            )


@runtime_checkable
class Facet(Protocol):
    """The samples of one facet; threads may share an instance.

    Attributes:
        rows: what is known of the stimuli.
        owner: row of each sample, ascending: the views of one stimulus lie side by side.
    """

    rows: FacetRows
    owner: Int[np.ndarray, " samples"]

    def fill(self, sample: int, out: UInt8[np.ndarray, "side side 3"]) -> None:
        """Writes a sample of the image tower, as the model sees it.

        Raises:
            UserError: if it does not decode: a stimulus that is missing would be a hole in a
                statistic.
        """
        ...

    def text(self, sample: int) -> str:
        """Returns a sample of the text tower."""
        ...

    def picture(self, row: int) -> UInt8[np.ndarray, "height width 3"] | None:
        """Returns what a report shows of a row; None where there is nothing to see."""
        ...
