"""What benchmarks of the neuron lab that train models have in common: flags, folder, figures."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.parser import add_seeds_flag

if TYPE_CHECKING:
    from clipjax.config import TrainConfig

RECIPE = "configs/emoji_neurons.py"


def add_run_flags(
    parser: argparse.ArgumentParser, *, config: str = RECIPE, units: str | None = None
) -> None:
    """Adds --config, --seeds, --dir and, with a default, --units.

    Args:
        parser: of the benchmark.
        config: the recipe by default.
        units: the layer by default.
    """
    parser.add_argument(
        "--config",
        default=config,
        metavar="FILE[:ARGUMENT]",
        help="recipe (default: %(default)s)",
    )
    if units is not None:
        parser.add_argument(
            "--units", default=units, metavar="PATH", help="layer to look at (default: %(default)s)"
        )
    add_seeds_flag(parser, "of models")
    parser.add_argument(
        "--dir", metavar="DIR", help="keeps data and models here (default: a temporary folder)"
    )


def seed_figures(
    args: argparse.Namespace,
    rows_of: "Callable[[TrainConfig, Path, int], list[dict[str, Any]]]",
    **about: Any,
) -> dict[str, Any]:
    """Returns the figures of all seeds: `config`, `about`, `models`, and whether all passed.

    Args:
        args: of `add_run_flags`.
        rows_of: gives the rows of one seed, from the recipe and a folder for data and models.
        about: what else the figures say.

    Raises:
        UserError: if the recipe cannot be read, or as `rows_of` does.
    """
    from clipjax.cli.configs import load_config

    config = load_config(args.config, [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.dir or temporary)
        rows = [row for seed in args.seeds for row in rows_of(config, folder, seed)]
    passed = all(row["passed"] for row in rows)
    return {"config": args.config, **about, "models": rows, "passed": passed}
