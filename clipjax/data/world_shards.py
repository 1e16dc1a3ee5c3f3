"""Writes the world of emoji that comes with the package as shards to train and to evaluate on."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from clipjax.config.errors import UsageError
from clipjax.data.concepts import rarest_concept
from clipjax.data.emoji_world import EmojiWorld, load_emoji_world
from clipjax.data.writers import DatasetFolder, Sample, write_shards

SPLITS = ("photo", "edges", "word", "held_out", "reading")
HELD_OUT_VIEWS = 2  # of the pictures of each word

_MOST_COLOURS = 1000


def make_emoji_world(
    out: str | os.PathLike[str], *, seed: int = 0, colours: int = 5
) -> dict[str, Any]:
    """Writes `EmojiWorld` under `out`.

    Args:
        out: the folder to write; if it is complete already, nothing is made.
        seed: of the colours of written words.
        colours: pairs of colours in which each picture of a word is written.

    Returns:
        The content of dataset.json.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed}: wanted 0 or more.")
    if not 1 <= colours <= _MOST_COLOURS:
        raise UsageError(f"--colours {colours}: wanted 1 to {_MOST_COLOURS:,}.")
    arguments = {"seed": seed, "colours": colours}
    own = (*SPLITS, "classnames.txt", "templates.txt")
    folder = DatasetFolder(out, "emoji-world", arguments, own)
    if (found := folder.complete()) is not None:
        return found
    world = load_emoji_world()
    folder.begin()
    samples = {
        "photo": _pictures(world, world.photo, held_out=False),
        "edges": _pictures(world, world.edge_pictures, held_out=False),
        "held_out": _pictures(world, world.photo, held_out=True),
        "word": _words(world, seed, colours, held_out=False),
        "reading": _words(world, seed, colours, held_out=True),
    }
    counts = {split: write_shards(folder.path / split, samples[split]) for split in SPLITS}
    folder.write_lines("classnames.txt", [one.name for one in world.concepts])
    folder.write_lines("templates.txt", ["{c}"])
    return folder.finish({"splits": counts})


def _pictures(world: EmojiWorld, pictures: np.ndarray, *, held_out: bool) -> Iterator[Sample]:
    classes = rarest_concept(world.labels)
    for row in np.flatnonzero(world.held_out == held_out):
        concepts = [world.concepts[c].id for c in np.flatnonzero(world.labels[row])]
        captions = [*world.captions[row], *concepts]
        fields = {"captions": captions, "stimulus": world.stimuli[row], "concepts": concepts}
        yield Sample(pictures[row], captions[0], fields, int(classes[row]))


def _words(world: EmojiWorld, seed: int, colours: int, *, held_out: bool) -> Iterator[Sample]:
    views = world.words.shape[1]
    first = views - HELD_OUT_VIEWS
    for colour in range(colours):
        drawn = world.word_pictures(seed + colour + 1)
        for number, one in enumerate(world.concepts):
            for view in range(first, views) if held_out else range(first):
                fields = {"captions": [one.name], "concepts": [one.id], "view": view}
                yield Sample(drawn[number, view], one.name, fields, number)
