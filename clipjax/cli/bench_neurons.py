"""Measures what the multimodal-neuron lab finds, and how fast.

clipjax bench neurons world --seeds 0,1,2 --json world.json
clipjax bench neurons scan --json -
clipjax bench neurons ablation
clipjax bench neurons selftest
"""

import argparse
import importlib
from typing import Any

from clipjax.cli.parser import Parser

# name: (module with configure and run, which import nothing slow before they run; what it measures)
COMMANDS = {
    "scan": (
        "clipjax.cli.bench_neurons_cost",
        "time of a full scan, taking turns with a plain forward pass",
    ),
    "world": (
        "clipjax.cli.bench_neurons_world",
        "models trained on the world of emoji: zero-shot, reading, hijacking, units; controls",
    ),
    "ablation": (
        "clipjax.cli.bench_neurons_ablation",
        "what found units do for their concepts, beside other units",
    ),
    "selftest": (
        "clipjax.cli.bench_neurons_planted",
        "planted units that are found, and finds where nothing was planted",
    ),
}


def configure(parser: Parser) -> None:
    """Adds the benchmarks and their flags."""
    parts = parser.add_subparsers(dest="command", metavar="WHAT", required=True)
    for command, (module_name, meaning) in COMMANDS.items():
        module = importlib.import_module(module_name)
        leaf = parts.add_parser(
            command,
            help=meaning,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(leaf)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one benchmark and returns its figures.

    Raises:
        UserError: of the benchmark.
    """
    return importlib.import_module(COMMANDS[args.command][0]).run(args)
