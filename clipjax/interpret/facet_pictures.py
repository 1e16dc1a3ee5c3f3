"""The samples of several facets of the image tower as one list of pictures, and in batches."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from clipjax.config import UserError
from clipjax.core.progress import Progress
from clipjax.data.images import Images
from clipjax.data.pipeline import Batches, one_by_one
from clipjax.interpret.facets import Facet

_QUIET_SECONDS = 2.0


class FacetPictures:
    """Samples of facets, one facet after the other; threads may share an instance.

    Args:
        facets: of the image tower.

    Raises:
        UserError: if there are none.
    """

    def __init__(self, facets: Sequence[Facet]):
        if not sum(len(facet.owner) for facet in facets):
            raise UserError("the stimuli have no picture: name a facet of the image tower.")
        self._facets = tuple(facets)
        self._ends = np.cumsum([len(facet.owner) for facet in facets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def fill(self, index: int, out: UInt8[np.ndarray, "side side 3"]) -> None:
        """Writes a sample, as the model sees it.

        Raises:
            UserError: if it does not decode.
        """
        place = int(np.searchsorted(self._ends, index, side="right"))
        facet = self._facets[place]
        facet.fill(index - int(self._ends[place]) + len(facet.owner), out)


def image_facets(facets: Mapping[str, Facet], names: Sequence[str] = ()) -> list[Facet]:
    """Returns the facets of the image tower; by default those in which concepts are found.

    Args:
        facets: by name.
        names: of those that are wanted.

    Raises:
        UserError: if one that is wanted is of texts.
    """
    for name in names:
        if facets[name].rows.tower != "image":
            raise UserError(f"the facet {name} has texts, wanted pictures.")
    return [
        facet
        for name, facet in facets.items()
        if facet.rows.tower == "image" and (name in names or not (names or facet.rows.is_control))
    ]


def picture_batches(
    images: Images, side: int, *, batch_size: int, progress: str
) -> Iterator[tuple[UInt8[np.ndarray, "batch side side 3"], int]]:
    """Yields pictures, all batches of one size, and how many of a batch count.

    A batch is overwritten once the next has been asked for.

    Args:
        images: read in threads.
        side: of the pictures.
        batch_size: of all batches.
        progress: what is said to be done.
    """
    count = len(images)
    spec = {"x": ((side, side, 3), np.dtype(np.uint8))}

    def fill(index: int, row: Mapping[str, np.ndarray]) -> None:
        if index < count:
            images.fill(index, row["x"])

    steps = -(-count // batch_size)
    batches = Batches(
        lambda step: np.arange(step * batch_size, (step + 1) * batch_size),
        one_by_one(fill),
        spec,
        stop_step=steps,
        ahead=1,
    )
    told = Progress(progress, count, "images", quiet_seconds=_QUIET_SECONDS)
    with told, contextlib.closing(batches):
        for step in range(steps):
            valid = min(batch_size, count - step * batch_size)
            yield next(batches)["x"], valid
            told.advance(valid)
