"""Times a full scan of neurons, taking turns with a plain forward pass.

clipjax bench neurons scan --json scan.json

Pictures of noise through an untrained model: `encode_image` alone, and with taps on the hidden
units of all MLPs, sums, exemplars, histograms, rank sums of all concepts and codes written into a
file. The two take turns in one process; the ratio is the median over the rounds.
"""

import argparse
from typing import Any

from clipjax.config.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--preset", default="ViT-B-32", metavar="NAME", help="model (default: %(default)s)"
    )
    for flag, default, meaning in (
        ("--batch_size", 64, "pictures of a call, as many as a scan takes"),
        ("--batches", 4, "calls of each in a round"),
        ("--rounds", 5, "timed rounds of each"),
        ("--concepts", 1000, "concepts with a rank sum"),
        ("--pilot", 2048, "pictures that the bins follow from, as many as a scan takes"),
    ):
        parser.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, prints and returns the figures.

    Raises:
        UsageError: for numbers that cannot be.
    """
    for name in ("batch_size", "batches", "rounds", "concepts", "pilot"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name}={getattr(args, name)} is not positive.")
    from clipjax.cli.bench_scan_cost import scan_figures

    return scan_figures(
        args.preset,
        batch_size=args.batch_size,
        batches=args.batches,
        rounds=args.rounds,
        concepts=args.concepts,
        pilot=args.pilot,
    )
