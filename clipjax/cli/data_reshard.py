"""Rewrites shards: other sizes of images and shards, shuffled, without what cannot be used.

clipjax data reshard 'raw/*.tar' --out train --resize 256 --resize-mode shortest --shuffle-seed 0

Of one manifest only the samples that it lists are written.
"""

import argparse
from typing import Any

from clipjax.cli.data_make import add_output_arguments, check_output_arguments, print_figures
from clipjax.cli.data_shards import add_remote_flags, add_shards, open_shards
from clipjax.config.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clipjax data reshard` to its parser."""
    add_shards(parser)
    parser.add_argument(
        "--resize", type=int, default=256, metavar="PIXELS", help="side (default: %(default)s)"
    )
    parser.add_argument(
        "--resize-mode",
        choices=("shortest", "longest", "square", "none"),
        default="none",
        help="which side --resize is of; square cuts out the centre. Images are averaged over "
        "areas, never enlarged, and what needs no change keeps its bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=85,
        metavar="N",
        help="of the JPEGs that resized images become (default: %(default)s)",
    )
    parser.add_argument(
        "--shuffle-seed", type=int, metavar="N", help="shuffle all samples with this seed"
    )
    parser.add_argument(
        "--keep",
        default="txt,json",
        metavar="MEMBERS",
        help="members beside the image; a sample that lacks one is dropped (default: %(default)s)",
    )
    add_output_arguments(parser)
    add_remote_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the shards and returns the content of their dataset.json.

    Raises:
        UserError: if a shard cannot be read, or the folder holds something else.
    """
    check_output_arguments(args)
    if args.shuffle_seed is not None and args.shuffle_seed < 0:
        raise UsageError(f"--shuffle-seed {args.shuffle_seed}: wanted 0 or more.")
    from clipjax.data.reshard import Reencoding, resharded, write_resharded

    keep = tuple(dict.fromkeys(name for name in args.keep.split(",") if name))
    source = open_shards(args, keep)
    how = Reencoding(
        side=args.resize, mode=args.resize_mode, quality=args.quality, max_pixels=args.max_pixels
    )
    names = ("shards", "resize", "resize_mode", "quality", "shard_size", "shuffle_seed")
    try:
        figures = write_resharded(
            source,
            args.out,
            lambda sample: resharded(sample, how),
            made_by=("reshard", {**{n: getattr(args, n) for n in names}, "keep": list(keep)}),
            shard_size=args.shard_size,
            shuffle_seed=args.shuffle_seed,
            threads=args.threads,
        )
    finally:
        source.close()
    if source.num_incomplete:
        figures = {**figures, "incomplete": source.num_incomplete}
        print(
            f"{source.num_incomplete:,} samples lack an image or .{', .'.join(keep)} and were "
            f"passed over, e.g. {source.example_incomplete}"
        )
    print_figures(args.out, figures)
    return figures
