"""Times a full scan, taking turns with a plain forward pass.

clipjax bench neurons scan --json -

Pictures of noise through an untrained model: encode_image alone, and with taps on the hidden units
of all MLPs, sums, exemplars, histograms, rank sums of all concepts and codes written into a file.
The two take turns in one process; the ratio is the median over the rounds.
"""

import argparse
from typing import Any

from clipjax.config.errors import UsageError

_COUNTS = (
    ("batch_size", 32, "pictures of a call"),
    ("batches", 4, "calls of each in a round"),
    ("rounds", 5, "timed rounds of each"),
    ("concepts", 1000, "concepts with a rank sum"),
    ("pilot", 256, "pictures that the bins follow from"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--preset", default="ViT-B-32", metavar="NAME", help="model (default: %(default)s)"
    )
    for name, default, meaning in _COUNTS:
        parser.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"{meaning} (default: %(default)s)",
        )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Times both and returns the figures."""
    counts = {name: getattr(args, name) for name, *_ in _COUNTS}
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"--{name}: {value} is not positive.")
    from clipjax.cli.bench_neurons_scan import scan_figures

    return scan_figures(args.preset, **counts)
