"""Draws what units of models of the world of emoji like to see; another model says what it is.

clipjax bench neurons vis --seeds 0,1,2 --json vis.json

Of every model: the units of one layer whose AUROC is above 0.8 for one concept as a picture, as
edges and as a written word, the best first, each with its best concept. The judge is the model of
the next seed, trained by itself on the same pictures. The bars: five times as many pictures are
taken for their unit's concept as by chance, and noise less than 1.5 times as often.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.bench_neurons_runs import add_run_flags, seed_figures
from clipjax.cli.bench_neurons_world import UNITS, train_world
from clipjax.cli.neurons_vis import NOISE_BAR
from clipjax.cli.text_table import text_table

if TYPE_CHECKING:
    from clipjax.config import TrainConfig

BAR = 5.0

_NOISE = 256  # pictures


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    add_run_flags(parser, units=UNITS)
    parser.add_argument(
        "--most", type=int, default=60, metavar="N", help="units of a model (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=160, metavar="N", help="of ascent (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, draws, judges, prints the table and returns the figures.

    Raises:
        UserError: if the recipe cannot be read or trained.
    """

    def rows_of(config: "TrainConfig", folder: Path, seed: int) -> list[dict[str, Any]]:
        return [_row(config, folder, args, seed, _judge_of(seed, args.seeds))]

    figures = seed_figures(args, rows_of, units=args.units)
    print(_table(figures["models"]))
    return figures


def _judge_of(seed: int, seeds: list[int]) -> int:
    """Returns the seed after it, and after the last the first; another one if there is one alone.

    >>> [_judge_of(seed, [3, 7]) for seed in (3, 7)], _judge_of(5, [5])
    ([7, 3], 6)
    """
    return seeds[(seeds.index(seed) + 1) % len(seeds)] if len(seeds) > 1 else seed + 1


def _row(
    config: "TrainConfig", folder: Path, args: argparse.Namespace, seed: int, judge_seed: int
) -> dict[str, Any]:
    from clipjax.data.emoji_world import load_emoji_world
    from clipjax.inference.load import load
    from clipjax.interpret.judge import judge
    from clipjax.interpret.visualise import VisualiseConfig, noise_pictures, visualise
    from clipjax.interpret.world_units import STRICT, world_units

    workdir, judge_dir = (train_world(config, folder, seed=one)[0] for one in (seed, judge_seed))
    model, world = load(workdir), load_emoji_world()
    weakest = world_units(model, world, args.units).weakest
    best = weakest.max(axis=1)
    units = [unit for unit in (-best).argsort().tolist() if best[unit] > STRICT][: args.most]
    row: dict[str, Any] = {"seed": seed, "judge": judge_seed, "pictures": len(units)}
    if not units:
        return {**row, "passed": False}
    pictures, _ = visualise(model, args.units, units, VisualiseConfig(steps=args.steps, seed=seed))
    noise = noise_pictures(_NOISE, pictures.shape[1], seed=seed)
    names = [one.name for one in world.concepts]
    said = weakest[units].argmax(axis=1).tolist()
    found = judge(load(judge_dir), pictures, said, names, noise)
    row |= {
        "chance": found.chance,
        "share": found.share,
        "noise_share": found.noise_share,
        "others_share": found.others_share,
        "ratio": found.share / found.chance,
        "noise_ratio": found.noise_share / found.chance,
    }
    row["passed"] = row["ratio"] >= BAR and row["noise_ratio"] < NOISE_BAR
    return row


def _table(rows: list[dict[str, Any]]) -> str:
    head = ("model", "judge", "pictures", "right", "chance", "ratio", "noise", "others")
    lines = []
    for row in rows:
        name = f"words {row['seed']}{'' if row['passed'] else ' !'}"
        told = [name, f"words {row['judge']}", str(row["pictures"])]
        if "ratio" in row:
            told += [f"{row[key]:.3f}" for key in ("share", "chance")]
            told += [f"{row[key]:.2f}" for key in ("ratio", "noise_ratio")]
            told.append(f"{row['others_share'] / row['chance']:.2f}")
        lines.append(tuple(told + ["-"] * (len(head) - len(told))))
    return text_table(head, lines, texts=2)
