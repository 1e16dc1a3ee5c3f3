"""Units of a model that answer to one concept as a picture, as edges and as a written word."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from clipjax.data.emoji_world import EmojiWorld
from clipjax.data.resize import EvaluationTransform
from clipjax.inference.load import Model
from clipjax.interpret.statistics.ranks import facet_scores
from clipjax.models import with_params
from clipjax.models.taps import tapped

FACETS = ("photo", "edges", "word")
STRICT = 0.8

Activations = Float[np.ndarray, "stimuli units"]

_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldUnits:
    """How well each unit tells each concept of the world apart.

    Attributes:
        auroc: by facet.
    """

    auroc: Mapping[str, Float[np.ndarray, "units concepts"]]

    @property
    def weakest(self) -> Float[np.ndarray, "units concepts"]:
        """Returns the AUROC of the facet in which a unit does worst."""
        return np.minimum.reduce([self.auroc[facet] for facet in FACETS])

    def units(self, floor: float = STRICT) -> Int[np.ndarray, " found"]:
        """Returns the units that are above `floor` in every facet for one concept."""
        return np.flatnonzero((self.weakest > floor).any(axis=1))

    def concepts(self, floor: float = STRICT) -> Int[np.ndarray, " found"]:
        """Returns the concepts that such units are for."""
        return np.flatnonzero((self.weakest > floor).any(axis=0))


def world_units(
    model: Model, world: EmojiWorld, path: str, *, pool: str = "max", colours: int = 4
) -> WorldUnits:
    """Shows a model all pictures, edges and written words of the world.

    Every picture of a written word is a row, in each place, size and pair of colours: with one row
    a word a unit that is drawn at random would be above 0.8 for a fifth of them, since one of 24
    words is a concept's own.

    Args:
        model: any.
        world: of `load_emoji_world`.
        path: of units of the image tower.
        pool: how places become one number, see `clipjax.models.taps.taps`.
        colours: in which each picture of a word is written.

    Raises:
        UserError: if the model has no such units.
    """
    words = np.stack([world.word_pictures(seed) for seed in range(colours)], axis=1)
    concepts, _, views = words.shape[:3]
    shown = {
        "photo": (world.photo, world.labels),
        "edges": (world.edge_pictures, world.labels),
        "word": (
            words.reshape(-1, *words.shape[-3:]),
            np.eye(concepts, dtype=bool).repeat(colours * views, axis=0),
        ),
    }
    read = _reader(model, path, pool)
    auroc = {}
    for facet, (pictures, labels) in shown.items():
        scores = facet_scores(read(pictures), labels, min_positives=1, exact_below=0)
        auroc[facet] = scores.auroc
    return WorldUnits(auroc=auroc)


def _reader(model: Model, path: str, pool: str) -> Callable[[np.ndarray], Activations]:
    """Returns what turns pictures, uint8 [n, side, side, 3], into activations, [n, units]."""
    transform = EvaluationTransform.of(model.config)
    side = model.config.image.image_size

    def encode(params: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
        return with_params(model.config, params).encode_image(images)

    run = jax.jit(tapped(encode, read={path: pool}))

    def read(pictures: UInt8[np.ndarray, "n height width 3"]) -> Activations:
        out = []
        for first in range(0, len(pictures), _BATCH):
            part = pictures[first : first + _BATCH]
            batch = np.zeros((_BATCH, side, side, 3), np.uint8)
            for row, picture in zip(batch, part, strict=False):
                transform(picture, row)
            out.append(np.asarray(run(model.params, batch)[1][path])[: len(part)])
        return np.concatenate(out).astype(np.float64)

    return read
