"""Writes the world of emoji that comes with the package as shards to train and to evaluate on."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from clipjax.config.errors import UsageError
from clipjax.data.concepts import rarest_concept
from clipjax.data.emoji_world import EmojiWorld, load_emoji_world
from clipjax.data.ink import Picture, plate_of, written
from clipjax.data.keyed import uniforms
from clipjax.data.word_pictures import contrasting
from clipjax.data.writers import DatasetFolder, Sample, write_shards

SPLITS = ("photo", "edges", "word", "held_out", "reading")
COPIES = {"stimulus": 6, "word": 4}  # of a picture, and of a view of a word

_READING_COLOURS = 5
_SMALLEST = 0.65  # side of a copy
_PLACES, _WORDS = 51, 52  # streams of random numbers


def make_emoji_world(out: str | os.PathLike[str], *, seed: int = 0) -> dict[str, Any]:
    """Writes `EmojiWorld` under `out`, copies of it that differ in place, size and colours.

    `photo` and `edges` have the stimuli that are not held out, as they are and five times smaller,
    elsewhere or mirrored. `word` has the trained views of each word in four pairs of colours: on
    paper that fills the picture, on a plate, or on a plate before an emoji of any concept, which
    teaches that what is written counts. `held_out` has the other stimuli, `reading` the other views
    of each word in five pairs of colours; they come as they are.

    Args:
        out: the folder to write; if it is complete already, nothing is made.
        seed: of places, sizes and colours.

    Returns:
        The content of dataset.json: the arguments and `splits` (samples each).

    Raises:
        UsageError: for a seed below 0.
        UserError: if `out` holds other things.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed}: wanted 0 or more.")
    own = (*SPLITS, "classnames.txt", "templates.txt")
    folder = DatasetFolder(out, "emoji-world", {"seed": seed}, own)
    if (found := folder.complete()) is not None:
        return found
    world = load_emoji_world()
    folder.begin()
    samples = {
        "photo": _pictures(world, "photo", seed),
        "edges": _pictures(world, "edges", seed),
        "word": _words(world, seed),
        "held_out": _held_out(world),
        "reading": _reading(world, seed),
    }
    counts = {split: write_shards(folder.path / split, samples[split]) for split in SPLITS}
    folder.write_lines("classnames.txt", [one.name for one in world.concepts])
    folder.write_lines("templates.txt", ["{c}"])
    return folder.finish({"splits": counts})


def _pictures(world: EmojiWorld, split: str, seed: int) -> Iterator[Sample]:
    pictures = world.photo if split == "photo" else world.edge_pictures
    for copy in range(COPIES["stimulus"]):
        for row in np.flatnonzero(~world.held_out).tolist():
            picture = pictures[row]
            if copy:
                draws = uniforms(seed, row * COPIES["stimulus"] + copy, _PLACES, 4)
                picture = _placed(picture, draws)
            yield _sample(world, row, picture)


def _held_out(world: EmojiWorld) -> Iterator[Sample]:
    for row in np.flatnonzero(world.held_out).tolist():
        yield _sample(world, row, world.photo[row])


def _sample(world: EmojiWorld, row: int, picture: Picture) -> Sample:
    concepts = [world.concepts[c].name for c in np.flatnonzero(world.labels[row])]
    captions = [*world.captions[row], *concepts]
    fields = {"captions": captions, "stimulus": world.stimuli[row], "concepts": concepts}
    label = int(rarest_concept(world.labels)[row])
    return Sample(picture, captions[0], fields, label)


def _placed(picture: Picture, draws: np.ndarray) -> Picture:
    """Returns a picture mirrored or not, smaller, on white."""
    side = len(picture)
    if draws[0] < 0.5:
        picture = picture[:, ::-1]
    length = round(side * (_SMALLEST + (1 - _SMALLEST) * draws[1]))
    small = Image.fromarray(picture).resize((length, length), Image.Resampling.LANCZOS)
    top, left = ((side - length + 1) * draws[2:]).astype(int)
    out = np.full_like(picture, 255)
    out[top : top + length, left : left + length] = np.asarray(small)
    return out


def _words(world: EmojiWorld, seed: int) -> Iterator[Sample]:
    """Yields words on paper, on plates, and on plates before an emoji, in colours of their own."""
    seen = np.flatnonzero(~world.held_out)
    views, side = world.trained_words.shape[1:3]
    for copy in range(COPIES["word"]):
        for number, one in enumerate(world.concepts):
            for view in range(views):
                key = (copy * len(world.concepts) + number) * views + view
                draws = uniforms(seed, key, _WORDS, 11)
                mask = world.trained_words[number, view]
                ink, paper = contrasting(draws[:3], draws[3:6])
                behind = np.empty((side, side, 3), np.uint8)
                if draws[9] < 0.3:
                    behind[...] = world.photo[seen[int(draws[10] * len(seen))]]
                else:
                    behind[...] = paper if draws[9] < 0.7 else 255 * draws[6:9]
                picture = written(behind, mask, plate_of([mask]), ink, paper)
                fields = {"captions": [one.name], "concepts": [one.name], "view": view}
                yield Sample(picture, one.name, fields, number)


def _reading(world: EmojiWorld, seed: int) -> Iterator[Sample]:
    for colour in range(_READING_COLOURS):
        drawn = world.word_pictures(seed + colour)
        for number, one in enumerate(world.concepts):
            for view in range(world.words.shape[1]):
                fields = {"captions": [one.name], "concepts": [one.name], "view": view}
                yield Sample(drawn[number, view], one.name, fields, number)
