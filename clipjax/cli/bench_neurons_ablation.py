"""Trains models on the world of emoji and tells what their multimodal units do, over seeds.

clipjax bench neurons ablation --seeds 0,1,2 --json ablation.json

Of every model: each unit of one layer is held at its mean. Units whose AUROC is above 0.8 for one
concept as a picture, as edges and as a written word are compared with all others of the layer, by
how much more the logit of that concept falls on its own stimuli. The bar is a ratio of 3 in each
facet: mean drop of the found pairs over the mean size of the others' drops.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.bench_neurons_runs import add_run_flags, seed_figures
from clipjax.cli.bench_neurons_world import UNITS, train_world
from clipjax.cli.text_table import text_table

if TYPE_CHECKING:
    from clipjax.config import TrainConfig
    from clipjax.interpret.statistics.effects import EffectRatio

BAR = 3.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    add_run_flags(parser, units=UNITS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, ablates, prints the table and returns the figures.

    Raises:
        UserError: if the recipe cannot be read or trained.
    """

    def rows_of(config: "TrainConfig", folder: Path, seed: int) -> list[dict[str, Any]]:
        return _rows(config, folder, args.units, seed)

    figures = seed_figures(args, rows_of, units=args.units)
    print(_table(figures["models"]))
    return figures


def _rows(config: "TrainConfig", folder: Path, path: str, seed: int) -> list[dict[str, Any]]:
    import numpy as np

    from clipjax.data.emoji_world import load_emoji_world
    from clipjax.inference.load import load
    from clipjax.interpret.causal import causal_drop
    from clipjax.interpret.statistics.effects import effect_ratio
    from clipjax.interpret.stimuli import EMOJI_WORLD, open_stimuli
    from clipjax.interpret.world_units import FACETS, STRICT, world_units
    from clipjax.models import unit_paths

    workdir, _ = train_world(config, folder, seed=seed)
    model, world = load(workdir), load_emoji_world()
    found = np.greater(world_units(model, world, path).weakest, STRICT)
    stimuli = open_stimuli(EMOJI_WORLD, model.config, tokenizer=model.tokenizer, facets=FACETS)
    names = [one.name for one in stimuli.concepts]
    width = unit_paths(model.config, [path])[path]
    drops = causal_drop(model, path, range(width), stimuli.facets, names)
    return [
        _row(facet, seed, effect_ratio(one.drop, found, seed=seed)) for facet, one in drops.items()
    ]


def _row(facet: str, seed: int, ratio: "EffectRatio | None") -> dict[str, Any]:
    told = {} if ratio is None else ratio.to_json()
    return {
        "facet": facet,
        "seed": seed,
        **told,
        "passed": ratio is not None and ratio.ratio >= BAR,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    head = ("model", "facet", "pairs", "drop", "others", "ratio", "95 %", "above 0")
    lines = []
    for row in rows:
        name = f"words {row['seed']}{'' if row['passed'] else ' !'}"
        if "ratio" not in row:
            lines.append((name, row["facet"], "0", *["-"] * 5))
            continue
        numbers = (f"{row[key]:.3f}" for key in ("found", "other_size"))
        interval = f"{row['low']:.1f} to {row['high']:.1f}"
        share = f"{row['positive']:.0%}"
        lines.append(
            (
                name,
                row["facet"],
                str(row["pairs"]),
                *numbers,
                f"{row['ratio']:.1f}",
                interval,
                share,
            )
        )
    return text_table(head, lines, texts=2)
