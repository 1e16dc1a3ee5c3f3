"""Draws what units of models of the world of emoji like to see; other models say what it is.

clipjax bench neurons vis --seeds 0,1,2 --json vis.json

Of every model: the units of one layer whose AUROC is above 0.8 for one concept as a picture, as
edges and as a written word, the best first, each with its best concept. The judges are the models
of all other seeds, trained by themselves on the same pictures; many units share a concept, and one
judge alone may know it or not. The bars, for the mean over judges: five times as many pictures are
taken for their unit's concept as by chance, and noise less than 1.5 times as often.
"""

import argparse
import statistics
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
        return [_row(config, folder, args, seed, _judges_of(seed, args.seeds))]

    figures = seed_figures(args, rows_of, units=args.units)
    print(_table(figures["models"]))
    return figures


def _judges_of(seed: int, seeds: list[int]) -> list[int]:
    """Returns all other seeds; the next number if there is one alone.

    >>> _judges_of(7, [3, 7, 9]), _judges_of(5, [5])
    ([3, 9], [6])
    """
    return [one for one in seeds if one != seed] or [seed + 1]


def _row(
    config: "TrainConfig", folder: Path, args: argparse.Namespace, seed: int, judges: list[int]
) -> dict[str, Any]:
    from clipjax.data.emoji_world import load_emoji_world
    from clipjax.inference.load import load
    from clipjax.interpret.feature_pictures import VisualiseConfig, noise_pictures, visualise
    from clipjax.interpret.judge import judge
    from clipjax.interpret.world_units import STRICT, world_units

    workdir, *of_judges = (train_world(config, folder, seed=one)[0] for one in (seed, *judges))
    model, world = load(workdir), load_emoji_world()
    weakest = world_units(model, world, args.units).weakest
    best = weakest.max(axis=1)
    units = [unit for unit in (-best).argsort().tolist() if best[unit] > STRICT][: args.most]
    row: dict[str, Any] = {"seed": seed, "judges": judges, "pictures": len(units)}
    if not units:
        return {**row, "passed": False}
    pictures, _ = visualise(model, args.units, units, VisualiseConfig(steps=args.steps, seed=seed))
    noise = noise_pictures(_NOISE, pictures.shape[1], seed=seed)
    names = [one.name for one in world.concepts]
    said = weakest[units].argmax(axis=1).tolist()
    found = [judge(load(one), pictures, said, names, noise) for one in of_judges]
    chance = found[0].chance
    for name in ("share", "noise_share", "others_share"):
        row[name] = statistics.fmean(getattr(one, name) for one in found)
    row |= {
        "chance": chance,
        "ratios": [one.share / chance for one in found],
        "ratio": row["share"] / chance,
        "noise_ratio": row["noise_share"] / chance,
    }
    row["passed"] = row["ratio"] >= BAR and row["noise_ratio"] < NOISE_BAR
    return row


def _table(rows: list[dict[str, Any]]) -> str:
    head = ("model", "pictures", "right", "chance", "ratio", "noise", "others", "by judge")
    lines = []
    for row in rows:
        name = f"words {row['seed']}{'' if row['passed'] else ' !'}"
        told = [name, str(row["pictures"])]
        if "ratio" in row:
            told += [f"{row[key]:.3f}" for key in ("share", "chance")]
            told += [f"{row[key]:.2f}" for key in ("ratio", "noise_ratio")]
            told.append(f"{row['others_share'] / row['chance']:.2f}")
            each = zip(row["judges"], row["ratios"], strict=True)
            told.append(", ".join(f"{seed}: {ratio:.1f}" for seed, ratio in each))
        lines.append(tuple(told + ["-"] * (len(head) - len(told))))
    return text_table(head, lines)
