"""`clipjax data reshard`: rewrites shards: other sizes of images and shards, shuffled, cleaned.

clipjax data reshard 'raw/*.tar' --out train --resize 256 --resize-mode shortest --shuffle-seed 0
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from clipjax.cli.data_make import add_output_arguments, check_output_arguments, print_figures
from clipjax.config.errors import UsageError, UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clipjax data reshard` to its parser."""
    parser.add_argument(
        "shards", nargs="+", metavar="SHARDS", help="WebDataset shards; * and {000..041} work"
    )
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


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the shards and returns the content of their dataset.json.

    Raises:
        UserError: if a shard cannot be read, or the folder holds something else.
    """
    check_output_arguments(args)
    if args.shuffle_seed is not None and args.shuffle_seed < 0:
        raise UsageError(f"--shuffle-seed {args.shuffle_seed}: wanted 0 or more.")
    from clipjax.data.reshard import Reencoding, resharded, write_resharded
    from clipjax.data.sources.tar_shards import TarShards

    keep = tuple(dict.fromkeys(name for name in args.keep.split(",") if name))
    source = TarShards(shard_paths(args.shards), needs=keep)
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


def shard_paths(arguments: Sequence[str]) -> list[str]:
    """Returns the shards that the arguments of a command name, in the order of the arguments.

    Raises:
        UserError: if one of them names no file.
    """
    from clipjax.data.sources.tar_shards import expand_shards

    paths: list[str] = []
    for argument in arguments:
        if os.path.isfile(argument):  # also one with a space or a bracket in its name
            paths.append(argument)
            continue
        try:
            paths += expand_shards("", argument)
        except UserError as error:
            if "matches no file" in str(error):
                raise UserError(
                    f"SHARDS {argument!r}: matches no file (seen from {os.getcwd()})."
                ) from error
            raise UserError(str(error).replace("data.shards=", "SHARDS ")) from error
    return list(dict.fromkeys(paths))
