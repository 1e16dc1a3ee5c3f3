"""Pictures of things with a word written on them, in four arms that differ in the ink alone.

Source: Goh et al. 2021, "Multimodal Neurons in Artificial Neural Networks",
https://distill.pub/2021/multimodal-neurons (attacks with words). The arms with scrambled letters
and with the right word tell reading from covering; the latter is that of Stroop 1935, "Studies of
interference in serial verbal reactions".
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from clipjax.config import UserError
from clipjax.data.concepts import Concept, rarest_concept
from clipjax.data.emoji_world import EmojiWorld
from clipjax.data.ink import Mask, Picture, centred, plate_of, written
from clipjax.data.keyed import uniforms
from clipjax.data.resize import EvaluationTransform
from clipjax.data.word_pictures import WordPainter, contrasting, scrambled
from clipjax.data.words import STOP_WORDS
from clipjax.interpret.facets import Facet

ARMS = ("clean", "scrambled", "incongruent", "congruent")

_WORDS, _COLOURS, _ALONE_COLOURS = 41, 42, 43  # streams of random numbers
_VIEWS = 2**16  # numbers of places and sizes


@runtime_checkable
class Masks(Protocol):
    """Where the ink of written class names is, 255 where it covers all."""

    def on_picture(self, word: int, own: int, view: int) -> tuple[Mask, Mask, Mask]:
        """Returns a word, its scrambled letters and the right word, written at one place.

        Args:
            word: number of the class whose name is written.
            own: number of the class that the picture shows.
            view: which of many places and sizes.
        """
        ...

    def alone(self, word: int, view: int) -> Mask:
        """Returns a word at a place of its own."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """The things that words are written on.

    Attributes:
        names: of the classes, among which the model chooses.
        stimuli: id of each picture.
        labels: whether a picture shows a class; each shows at least one, and lacks one whose name
            has as many words.
        photo: gives a picture by its number; its sides are as long as those of the masks.
        masks: of the names.
    """

    names: tuple[str, ...]
    stimuli: tuple[str, ...]
    labels: Bool[np.ndarray, "stimuli classes"]
    photo: Callable[[int], Picture]
    masks: Masks


def world_scene(world: EmojiWorld, rows: Sequence[int] | None = None) -> Scene:
    """Returns the emoji that come with the package; words are where its views have them.

    Args:
        world: of `load_emoji_world`.
        rows: numbers of the stimuli; all by default.
    """
    chosen = np.arange(len(world.stimuli)) if rows is None else np.asarray(rows)
    return Scene(
        names=tuple(one.name for one in world.concepts),
        stimuli=tuple(world.stimuli[row] for row in chosen),
        labels=world.labels[chosen],
        photo=lambda row: world.photo[chosen[row]],
        masks=_WorldMasks(world),
    )


def facet_scene(
    facet: Facet, concepts: Sequence[Concept], side: int, painter: WordPainter, *, seed: int = 0
) -> Scene:
    """Returns the stimuli of a facet of pictures that show a concept; words are drawn.

    Args:
        facet: of the image tower; the first view of each stimulus is taken.
        concepts: in the order of the labels.
        side: of the pictures that the facet gives, and of the painter.
        painter: of the words.
        seed: of the scrambled letters.

    Raises:
        UserError: if the facet has no pictures, or none on which two names can be written alike.
    """
    where = f"facet {facet.rows.name}"
    if facet.rows.tower != "image":
        raise UserError(
            f"{where}: has texts, wanted pictures to write words on. Choose a facet of the image "
            "tower."
        )
    kept = [c for c, one in enumerate(concepts) if scrambled(one.name, seed, STOP_WORDS)]
    names, labels = tuple(concepts[c].name for c in kept), facet.rows.labels[:, kept]
    parts = np.array([len(name.split()) for name in names])
    alike = ~labels & (parts == parts[rarest_concept(labels)][:, None]) if kept else labels
    shown = np.flatnonzero(labels.any(axis=1) & alike.any(axis=1))
    if not len(shown):
        raise UserError(
            f"{where}: no stimulus shows one of two or more concepts with names of as many words, "
            "whose letters can be scrambled. Choose another facet or other concepts."
        )
    first = np.searchsorted(facet.owner, np.arange(len(facet.rows.stimuli)))

    def photo(row: int) -> Picture:
        out = np.empty((side, side, 3), np.uint8)
        facet.fill(int(first[shown[row]]), out)
        return out

    return Scene(
        names=names,
        stimuli=tuple(facet.rows.stimuli[row] for row in shown),
        labels=labels[shown],
        photo=photo,
        masks=_DrawnMasks(names, painter, seed),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trials:
    """What is written on which picture.

    Attributes:
        stimulus: number of the picture.
        word: class whose name is written, which the picture does not show.
        own: class that it shows.
        view: of the place and size of the words.
    """

    stimulus: Int[np.ndarray, " trials"]
    word: Int[np.ndarray, " trials"]
    own: Int[np.ndarray, " trials"]
    view: Int[np.ndarray, " trials"]

    def __len__(self) -> int:
        return len(self.word)


def draw_trials(scene: Scene, *, repeats: int, seed: int) -> Trials:
    """Returns `repeats` words for each picture, a function of the seed and the picture's number.

    They have as many parts as the right one: those can be written at one place in one size.
    """
    parts = np.array([len(name.split()) for name in scene.names])
    own = rarest_concept(scene.labels)
    candidates = ~scene.labels & (parts == parts[own][:, None])
    draws = uniforms(seed, np.arange(len(own)), _WORDS, 2 * repeats).reshape(len(own), 2, repeats)
    words = np.array(
        [
            np.flatnonzero(row)[(draw[0] * row.sum()).astype(int)]
            for row, draw in zip(candidates, draws, strict=True)
        ]
    )
    return Trials(
        stimulus=np.repeat(np.arange(len(own)), repeats),
        word=words.reshape(-1),
        own=np.repeat(own, repeats),
        view=(draws[:, 1].reshape(-1) * _VIEWS).astype(int),
    )


class ArmPictures:
    """The pictures of the trials in one arm, as the model sees them; see `Images`.

    Args:
        scene: of the trials.
        trials: what is written where.
        arm: one of ARMS; with "clean" nothing is written.
        transform: of the model.
        seed: of the colours, which are those of every arm.
    """

    def __init__(
        self, scene: Scene, trials: Trials, arm: str, transform: EvaluationTransform, seed: int
    ):
        self._scene, self._trials, self._arm = scene, trials, ARMS.index(arm)
        self._transform, self._seed = transform, seed

    def __len__(self) -> int:
        return len(self._trials)

    def picture(self, trial: int) -> Picture:
        """Returns one picture before it is resized for the model."""
        trials = self._trials
        photo = self._scene.photo(int(trials.stimulus[trial]))
        if not self._arm:
            return photo
        masks = self._scene.masks.on_picture(
            int(trials.word[trial]), int(trials.own[trial]), int(trials.view[trial])
        )
        ink, paper = _colours(self._seed, trial, _COLOURS)
        word, mixed, right = masks
        plate = plate_of(masks)
        return written(photo, (mixed, word, right)[self._arm - 1], plate, ink, paper)

    def fill(self, index: int, out: UInt8[np.ndarray, "side side 3"]) -> None:
        """Writes a picture as the model sees it."""
        self._transform(self.picture(index), out)


class WordsAlone:
    """Pictures of the names, each in several views; see `Images`.

    Args:
        scene: whose names they are.
        views: of each name.
        transform: of the model.
        seed: of the colours.
    """

    def __init__(self, scene: Scene, views: int, transform: EvaluationTransform, seed: int):
        self._scene, self._views = scene, views
        self._transform, self._seed = transform, seed

    def __len__(self) -> int:
        return len(self._scene.names) * self._views

    def picture(self, index: int) -> Picture:
        """Returns one picture before it is resized for the model."""
        mask = self._scene.masks.alone(*divmod(index, self._views))
        ink, paper = _colours(self._seed, index, _ALONE_COLOURS)
        blank = np.zeros((*mask.shape, 3), np.uint8)
        return written(blank, mask, (0, 0, *mask.shape), ink, paper)

    def fill(self, index: int, out: UInt8[np.ndarray, "side side 3"]) -> None:
        """Writes a picture as the model sees it."""
        self._transform(self.picture(index), out)


def _colours(seed: int, number: int, stream: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    draws = uniforms(seed, number, stream, 6)
    return contrasting(draws[:3], draws[3:])


class _WorldMasks:
    def __init__(self, world: EmojiWorld):
        self._words, self._scrambled = world.words, world.scrambled

    def on_picture(self, word: int, own: int, view: int) -> tuple[Mask, Mask, Mask]:
        view %= self._words.shape[1]
        masks = self._words[word, view], self._scrambled[word, view]
        return *masks, centred(self._words[own, view], plate_of(masks))

    def alone(self, word: int, view: int) -> Mask:
        return self._words[word, view % self._words.shape[1]]


class _DrawnMasks:
    def __init__(self, names: Sequence[str], painter: WordPainter, seed: int):
        self._names, self._painter = names, painter
        known = STOP_WORDS | {word for name in names for word in name.lower().split()}
        self._scrambled = [scrambled(name, seed, known) or name for name in names]

    def on_picture(self, word: int, own: int, view: int) -> tuple[Mask, Mask, Mask]:
        texts = [self._names[word], self._scrambled[word], self._names[own]]
        first, second, third = self._painter.masks(texts, f"{word}:{own}:{view}")
        return np.asarray(first), np.asarray(second), np.asarray(third)

    def alone(self, word: int, view: int) -> Mask:
        return np.asarray(self._painter.masks([self._names[word]], f"alone {word}:{view}")[0])
