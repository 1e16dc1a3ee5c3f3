"""Shows the distributions of sizes, captions and scores of shards, in numbers and as a picture.

clipjax data stats 'train/*.tar' --out stats.png --json stats.json

Of one manifest the samples that it lists are measured. --out needs pip install 'clipjax[plots]'.
"""

import argparse
import os
from typing import Any

from clipjax.cli.data_shards import add_remote_flags, add_shards, check_caption, open_shards
from clipjax.cli.parser import check_writable
from clipjax.config.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clipjax data stats` to its parser."""
    add_shards(parser)
    parser.add_argument("--out", metavar="PNG", help="picture to write (default: none)")
    parser.add_argument(
        "--samples",
        type=int,
        default=10_000,
        metavar="N",
        help="how many to look at, evenly spread over the shards (default: %(default)s)",
    )
    parser.add_argument(
        "--caption",
        default="txt",
        metavar="WHERE",
        help="where captions are, as in data.caption; of several and of a list the first is taken "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=min(32, 2 * (os.cpu_count() or 1)),
        metavar="N",
        help="that read (default: %(default)s)",
    )
    add_remote_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns the quantiles, and draws the distributions.

    Raises:
        UserError: if a shard cannot be read, no sample can be used, or matplotlib is missing.
    """
    for name in ("samples", "threads"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name)}: wanted 1 or more.")
    check_caption(args.caption)
    if args.out:
        check_writable("--out", args.out)
    from clipjax.data.captions import caption_members
    from clipjax.data.stats import measure
    from clipjax.data.stats_plot import draw

    source = open_shards(args, caption_members(args.caption), wishes=("json",))
    try:
        found = measure(source, caption=args.caption, samples=args.samples, threads=args.threads)
    finally:
        source.close()
    figures = {
        "samples": len(source),
        "incomplete": source.num_incomplete,
        "shards": len(source.shard_counts),
        **found.figures(),
    }
    _print(figures)
    if args.out:
        draw(found, args.out, f"{found.seen:,} of {len(source):,} samples of {args.shards[0]}")
        print(f"{args.out}: written")
    return figures


def _print(figures: dict[str, Any]) -> None:
    print(
        f"{figures['samples']:,} samples in {figures['shards']:,} shards, "
        f"{figures['incomplete']:,} incomplete; of {figures['seen']:,} looked at "
        f"{sum(figures['bad'].values()):,} bad, {figures['distinct_captions']:,} distinct captions"
    )
    shown = ("min", "p5", "p50", "p95", "max", "mean")
    print(f"{'':22}" + "".join(f"{name:>12}" for name in shown))
    for name, row in figures["distributions"].items():
        print(f"{name[:22]:22}" + "".join(f"{row[column]:12,.5g}" for column in shown))
    for name in ("format", "language", "bad"):
        if counts := figures.get(name):
            most = sorted(counts.items(), key=lambda item: -item[1])[:8]
            print(f"{name:22}" + ", ".join(f"{label!r} {count:,}" for label, count in most))
