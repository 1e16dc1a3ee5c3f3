"""Trains models on names of emoji too, and counts the units of the shared space that hold up.

clipjax bench neurons replication --seeds 0,1,2 --json replication.json

For every seed one model learns and one, the control, trains as many steps on captions that belong
to other pictures; a third is not trained at all. Of each: pairs of an axis of the shared embedding,
up or down, and a concept that are found in all facets (pictures, edges, captions) in one half of
the emoji and confirmed in the other. While the models train they are counted six times, and so are
the axes that answer to one concept in all facets. The bars: 20 such pairs, none in either control,
and above 0.8 for Spearman's correlation of the number of such axes with the steps. That of pairs is
told and has no bar: it stops rising once what can be confirmed is.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.bench_neurons_head import LOOKS, rises
from clipjax.cli.bench_neurons_runs import RECIPE, add_run_flags, seed_figures
from clipjax.cli.bench_neurons_world import train_world
from clipjax.cli.text_table import text_table, written

if TYPE_CHECKING:
    from clipjax.config import TrainConfig
    from clipjax.inference.load import Model

CONFIG = f"{RECIPE}:captions"
UNITS = "shared/embed"
FACETS = ("photo", "edges", "caption")
LEAST_PAIRS = 20
LEAST_RISE = 0.8
PAIRS, CURVE = "replicated_pairs", "multimodal_units"

_COUNTS = ("pairs", PAIRS, "replicated_units", "replicated_concepts")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    add_run_flags(parser, config=CONFIG)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, scans, tests, prints the table and returns the figures.

    Raises:
        UserError: if the recipe cannot be read or trained.
    """
    figures = seed_figures(args, _rows, units=UNITS)
    print(_table(figures["models"]))
    return figures


def _rows(config: "TrainConfig", folder: Path, seed: int) -> list[dict[str, Any]]:
    from clipjax.inference.load import load
    from clipjax.interpret.fresh import fresh

    looks = dataclasses.replace(
        config.neurons, every_steps=max(1, config.num_steps // LOOKS), units=(UNITS,)
    )
    config = dataclasses.replace(config, neurons=looks)
    models: dict[str, Model] = {}
    rise: dict[str, dict[str, float | None]] = {"untrained": dict.fromkeys((CURVE, PAIRS))}
    for name, shuffled in (("trained", False), ("shuffled", True)):
        workdir, _ = train_world(config, folder, seed=seed, shuffled=shuffled)
        models[name], rise[name] = load(workdir), rises(workdir, (CURVE, PAIRS))
    models["untrained"] = fresh(models["trained"], seed)
    rows = []
    for name, model in models.items():
        row = {"seed": seed, "model": name, **_found(model, folder / f"scan-{name}-{seed}")}
        row |= {"rise": rise[name][CURVE], "rise_of_pairs": rise[name][PAIRS]}
        row["passed"] = (
            row[PAIRS] >= LEAST_PAIRS and (row["rise"] or 0.0) > LEAST_RISE
            if name == "trained"
            else not row[PAIRS]
        )
        rows.append(row)
    return rows


def _found(model: "Model", out: Path) -> dict[str, Any]:
    from clipjax.interpret.detect_settings import DetectSettings
    from clipjax.interpret.detection import detect
    from clipjax.interpret.scanning import scan
    from clipjax.interpret.stimuli import EMOJI_WORLD, open_stimuli

    stimuli = open_stimuli(EMOJI_WORLD, model.config, tokenizer=model.tokenizer, facets=FACETS)
    made = scan(model, stimuli, out=out, units=(UNITS,))
    space = detect(made, DetectSettings(), controls=False).content["spaces"][0]
    return {name: space[name] for name in _COUNTS}


def _table(rows: list[dict[str, Any]]) -> str:
    head = ("model", "pairs", "replicated", "axes", "concepts", "rise", "of pairs")
    lines = []
    for row in rows:
        told = [f"{row['model']} {row['seed']}{'' if row['passed'] else ' !'}"]
        told += [str(row[name]) for name in _COUNTS]
        told += [written(row[name], ".2f") for name in ("rise", "rise_of_pairs")]
        lines.append(tuple(told))
    return text_table(head, lines)
