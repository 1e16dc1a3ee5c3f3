"""Some 450 emoji and 24 words of them, which come with the package: no font is needed.

Each emoji has a colour picture, a map of its edges and captions; it belongs to some of 24 concepts,
and each concept has its word, written in several places and sizes, and the same letters scrambled.
Small enough to train a model on in minutes and to look for neurons that see, read and understand
one thing. It proves that machinery works, and nothing about models of the web.

Colour pictures: Noto Color Emoji (SIL OFL 1.1), colours rounded to 32 levels a channel. Edges:
found by us in those pictures, so no drawings of another hand. Words: DejaVu Sans (free, of
Bitstream Vera and Arev). Names and keywords: Unicode CLDR (Unicode licence).
"""

import dataclasses
import functools
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from clipjax.data.concepts import Concept
from clipjax.data.keyed import uniforms
from clipjax.data.word_pictures import contrasting

FILE = "emoji_world.npz"
PHOTO_LEVELS, GREY_LEVELS = 32, 8
FACETS = ("photo", "edges", "word", "caption")
CONTROL = "scrambled"

_WORD_COLOURS = 35  # stream of random numbers


@dataclasses.dataclass(frozen=True)
class EmojiWorld:
    """The stimuli by number, and which concepts they belong to.

    Attributes:
        stimuli: ids, as `make_stimuli` has them: "1F431".
        captions: of each stimulus, the name first, then the name with keywords.
        held_out: true where a stimulus is to be kept from training, a fifth of each concept and
            at least two.
        labels: whether a stimulus belongs to a concept.
        concepts: in the order of the columns of `labels`. Stimuli of the facets word and scrambled
            are concepts: ids "word:cat".
        photo: colour pictures.
        edges: dark lines on white.
        words: where ink is in pictures of each concept's word, 255 where it covers all.
        scrambled: the same of the same letters in another order.
        scrambled_words: that order, of each concept's word.
        trained_words: as `words`, in other places and sizes, to train on.
    """

    stimuli: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    held_out: Bool[np.ndarray, " stimuli"]
    labels: Bool[np.ndarray, "stimuli concepts"]
    concepts: tuple[Concept, ...]
    photo: UInt8[np.ndarray, "stimuli 32 32 3"]
    edges: UInt8[np.ndarray, "stimuli 32 32"]
    words: UInt8[np.ndarray, "concepts views 32 32"]
    scrambled: UInt8[np.ndarray, "concepts views 32 32"]
    scrambled_words: tuple[str, ...]
    trained_words: UInt8[np.ndarray, "concepts trained_views 32 32"]

    @property
    def edge_pictures(self) -> UInt8[np.ndarray, "stimuli 32 32 3"]:
        """Returns `edges` with three equal channels."""
        return np.repeat(self.edges[..., None], 3, axis=3)

    def word_pictures(
        self, seed: int = 0, *, scrambled: bool = False
    ) -> UInt8[np.ndarray, "concepts views 32 32 3"]:
        """Returns pictures of the words, each in two colours that follow from the seed.

        Args:
            seed: of the colours; words and scrambled ones have the same.
            scrambled: the control.
        """
        masks = self.scrambled if scrambled else self.words
        numbers = np.arange(masks.shape[0] * masks.shape[1]).reshape(masks.shape[:2])
        draws = uniforms(seed, numbers, _WORD_COLOURS, 6)
        pictures = np.empty((*masks.shape, 3), np.uint8)
        for place in np.ndindex(numbers.shape):
            ink, paper = map(np.array, contrasting(draws[place][:3], draws[place][3:]))
            share = masks[place][..., None] / 255
            pictures[place] = np.rint(share * ink + (1 - share) * paper)
        return pictures


@functools.cache
def load_emoji_world() -> EmojiWorld:
    """Returns the pictures and words; those who share them must not write into them."""
    path = Path(str(resources.files("clipjax.data") / FILE))
    with np.load(path, allow_pickle=False) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    stimuli = tuple(map(str, stored["stimuli"]))
    labels = stored["labels"].astype(bool)
    return EmojiWorld(
        stimuli=stimuli,
        captions=tuple(tuple(str(lines).split("\n")) for lines in stored["captions"]),
        held_out=_locked(stored["held_out"]),
        labels=_locked(labels),
        concepts=tuple(
            _concept(str(name), [stimuli[i] for i in np.flatnonzero(column)])
            for name, column in zip(stored["concepts"], labels.T, strict=True)
        ),
        photo=_locked(from_levels(stored["photo"], PHOTO_LEVELS)),
        edges=_locked(from_levels(stored["edges"], GREY_LEVELS)),
        words=_locked(from_levels(stored["words"], GREY_LEVELS)),
        scrambled=_locked(from_levels(stored["scrambled"], GREY_LEVELS)),
        scrambled_words=tuple(map(str, stored["scrambled_words"])),
        trained_words=_locked(from_levels(stored["trained_words"], GREY_LEVELS)),
    )


def to_levels(pixels: UInt8[np.ndarray, "..."], levels: int) -> UInt8[np.ndarray, "..."]:
    """Returns which of `levels` evenly spaced values, black and white included, is nearest."""
    return np.rint(pixels * ((levels - 1) / 255)).astype(np.uint8)


def from_levels(numbers: UInt8[np.ndarray, "..."], levels: int) -> UInt8[np.ndarray, "..."]:
    """Returns the values of levels as bytes.

    >>> from_levels(to_levels(np.array([0, 100, 255], np.uint8), 8), 8).tolist()
    [0, 109, 255]
    """
    return np.rint(numbers * (255 / (levels - 1))).astype(np.uint8)


def _concept(name: str, stimuli: list[str]) -> Concept:
    of_word = (f"word:{name}",)
    positives = {facet: of_word if facet == "word" else tuple(sorted(stimuli)) for facet in FACETS}
    return Concept(name, name, (name,), positives)


def _locked(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
