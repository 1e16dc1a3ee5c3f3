"""Trains models on the world of emoji, with and without pictures of words, and judges them.

clipjax bench neurons world --seeds 0,1,2 --json world.json

For every seed one model sees words and one, the control, trains as many steps without. Of each:
zero-shot of emoji that it never saw (balanced: the mean over concepts, of which faces have the most
emoji by far), reading of pictures of words that it never saw, hijacking by a wrong word less that
by its scrambled letters, and strict units: those of one layer whose AUROC is above 0.8 for one
concept as a picture, as edges and as a written word. ! marks what misses a bar.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.bench_neurons_runs import add_run_flags, seed_figures

if TYPE_CHECKING:
    import numpy as np

    from clipjax.config import TrainConfig
    from clipjax.inference.load import Model

UNITS = "image/hidden/mlp_act"
WITHOUT_WORDS = "photo/*.tar edges/*.tar"
BARS = {
    "zero_shot": (">=", 0.45),
    "reading": (">=", 0.95),
    "hijack": (">=", 0.50),
    "units": (">=", 40),
    "concepts": (">=", 12),
}
CONTROL_BARS = {"hijack": ("<=", 0.05), "units": ("<=", 5)}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    add_run_flags(parser, units=UNITS)
    parser.add_argument("--pool", default="max", metavar="HOW", help="of places (max)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, prints the table and returns the figures.

    Raises:
        UserError: if the recipe cannot be read or trained.
    """

    def rows_of(config: "TrainConfig", folder: Path, seed: int) -> list[dict[str, Any]]:
        return [_row(config, folder, args, seed, words=words) for words in (True, False)]

    figures = seed_figures(args, rows_of, units=args.units, pool=args.pool)
    print(table(figures["models"]))
    return figures


def train_world(
    config: "TrainConfig",
    folder: Path,
    *,
    seed: int = 0,
    words: bool = True,
    shuffled: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Writes the world and trains a model of it; returns the folder of the run and its figures.

    Args:
        config: the recipe.
        folder: for data and model; what is there already is not made again.
        seed: of parameters, order and augmentation.
        words: whether pictures of words are trained on.
        shuffled: whether each picture comes with the caption of another one.
    """
    from clipjax.core.distributed import Cluster, joined
    from clipjax.data.world_shards import make_emoji_world
    from clipjax.train.run import run as train

    root = folder / "world"
    make_emoji_world(root)
    shards = config.data.shards if words else WITHOUT_WORDS
    data = dataclasses.replace(
        config.data,
        root=str(root),
        shards=shards,
        shuffle_seed=seed,
        shuffled_captions=shuffled,
    )
    name = "shuffled" if shuffled else "words" if words else "no-words"
    workdir = folder / f"{name}-{seed}"
    with joined(Cluster()) as lifeline:
        figures = train(dataclasses.replace(config, data=data, seed=seed), workdir, lifeline)
    return workdir, figures


def judge(model: "Model", units: str, pool: str) -> dict[str, Any]:
    """Returns what a model of the world does, by name of the score.

    Args:
        model: of `train_world`.
        units: layer to count in.
        pool: of places.
    """
    from clipjax.data.emoji_world import load_emoji_world
    from clipjax.data.resize import EvaluationTransform
    from clipjax.interpret.typographic import run_typographic
    from clipjax.interpret.typographic_pictures import world_scene
    from clipjax.interpret.world_units import world_units

    world = load_emoji_world()
    names = [one.name for one in world.concepts]
    attacked = run_typographic(
        model.encoder.bind(model.params), world_scene(world), EvaluationTransform.of(model.config)
    )
    similarity = model.similarity(world.photo, names)
    right = named(similarity, world.labels)
    found = world_units(model, world, units, pool=pool)
    return {
        "zero_shot": float(right[world.held_out].mean()),
        "balanced": balanced(similarity[world.held_out], world.labels[world.held_out]),
        "trained": float(right[~world.held_out].mean()),
        "hijack": attacked.hijack.value,
        "hijack_interval": [attacked.hijack.low, attacked.hijack.high],
        "says_word": attacked.says_word["incongruent"].value,
        "says_word_scrambled": attacked.says_word["scrambled"].value,
        "stroop": attacked.stroop.value,
        "units": len(found.units()),
        "concepts": len(found.concepts()),
    }


def named(similarity: "np.ndarray", labels: "np.ndarray") -> "np.ndarray":
    """Returns how often each picture is named right, among one of its concepts and those it lacks.

    A picture of two concepts is asked twice, and the other right answer is not on offer.

    Args:
        similarity: float [pictures, concepts].
        labels: bool [pictures, concepts].

    >>> import numpy as np
    >>> named(np.array([[0.9, 0.3, 0.5]]), np.array([[True, True, False]])).tolist()
    [0.5]
    """
    return _hits(similarity, labels).sum(axis=1) / labels.sum(axis=1)


def balanced(similarity: "np.ndarray", labels: "np.ndarray") -> float:
    """Returns the mean over concepts of how often their pictures are named so, as `named` asks.

    Args:
        similarity: float [pictures, concepts].
        labels: bool [pictures, concepts], at least one picture of each concept.
    """
    return float((_hits(similarity, labels).sum(axis=0) / labels.sum(axis=0)).mean())


def _hits(similarity: "np.ndarray", labels: "np.ndarray") -> "np.ndarray":
    wrong = similarity.copy()
    wrong[labels] = -1  # cosines are not below
    return (similarity > wrong.max(axis=1, keepdims=True)) & labels


def _row(
    config: "TrainConfig", folder: Path, args: argparse.Namespace, seed: int, *, words: bool
) -> dict[str, Any]:
    from clipjax.inference.load import load

    workdir, figures = train_world(config, folder, seed=seed, words=words)
    scores = figures["tasks"]
    row = {
        "seed": seed,
        "words": words,
        "seconds": figures["seconds"],
        "held_out_top1": scores["held_out"]["top1"]["value"],
        "reading": scores["reading"]["top1"]["value"],
        **judge(load(workdir), args.units, args.pool),
    }
    row["passed"] = not _missed(row)
    return row


def _missed(row: dict[str, Any]) -> list[str]:
    bars = BARS if row["words"] else CONTROL_BARS
    return [
        name
        for name, (sign, bar) in bars.items()
        if (row[name] < bar if sign == ">=" else row[name] > bar)
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the figures as lines, with the bars above and what misses one marked."""
    columns = ("zero_shot", "balanced", "reading", "hijack", "units", "concepts")
    lines = [f"{'model':<14}" + "".join(f"{name:>12}" for name in columns) + f"{'seconds':>10}"]
    for title, bars in (("bar", BARS), ("bar, no words", CONTROL_BARS)):
        told = ["".join(map(str, bars[name])) if name in bars else "" for name in columns]
        lines.append(f"{title:<14}" + "".join(f"{cell:>12}" for cell in told))
    for row in rows:
        title = f"{'words' if row['words'] else 'no words'} {row['seed']}"
        missed = _missed(row)
        cells = [
            (f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]))
            + (" !" if name in missed else "")
            for name in columns
        ]
        lines.append(
            f"{title:<14}" + "".join(f"{cell:>12}" for cell in cells) + f"{row['seconds']:>10.0f}"
        )
    return "\n".join(lines)
