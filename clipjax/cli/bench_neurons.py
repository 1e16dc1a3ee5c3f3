"""Measures what the multimodal-neuron lab finds, and how fast.

clipjax bench neurons world --seeds 0,1,2 --json world.json
clipjax bench neurons replication --seeds 0,1,2
clipjax bench neurons ablation --json -
clipjax bench neurons vis --seeds 0,1,2
clipjax bench neurons selftest
clipjax bench neurons head --seeds 0,1,2
clipjax bench neurons sae --seeds 0,1,2 --json sae.json
clipjax bench neurons scan
clipjax bench neurons textspan
clipjax bench neurons monosemanticity
"""

import argparse
import importlib
from typing import Any

from clipjax.cli.parser import Parser

# name: (module with configure and run, which import nothing slow before they run; what it measures)
COMMANDS = {
    "world": (
        "clipjax.cli.bench_neurons_world",
        "models trained on the world of emoji: zero-shot, reading, hijacking, units; controls",
    ),
    "replication": (
        "clipjax.cli.bench_neurons_replication",
        "units of the shared space that two halves of the emoji agree on; controls, curves",
    ),
    "ablation": (
        "clipjax.cli.bench_neurons_ablation",
        "what found units do for their concepts, beside other units",
    ),
    "vis": (
        "clipjax.cli.bench_neurons_vis",
        "pictures that drive found units, judged by a model that was trained by itself",
    ),
    "selftest": (
        "clipjax.cli.bench_neurons_planted",
        "planted units that are found, and finds where nothing was planted",
    ),
    "head": (
        "clipjax.cli.bench_neurons_head",
        "dense and sparse heads of equal width: whether their axes mean something",
    ),
    "sae": (
        "clipjax.cli.bench_neurons_sae",
        "sparse autoencoders of every objective: what they keep, what both modalities share",
    ),
    "scan": (
        "clipjax.cli.bench_neurons_scan",
        "a full scan, taking turns with a plain forward pass",
    ),
    "textspan": (
        "clipjax.cli.bench_neurons_textspan",
        "texts that span a head, by moments and by all outputs: time, and whether they agree",
    ),
    "monosemanticity": (
        "clipjax.cli.bench_neurons_monosemanticity",
        "monosemanticity in one pass and by all pairs: time, and whether they agree",
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
