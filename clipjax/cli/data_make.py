"""Writes a list, a folder or a TFDS data set as WebDataset shards.

clipjax data make --from captions.csv --out shards
clipjax data make --from tfds:coco_captions/2014:val --caption json.captions.text --out shards
"""

import argparse
import os
from collections.abc import Mapping
from typing import Any

from clipjax.cli.data_shards import add_remote_flags, check_caption, remote_config
from clipjax.config.errors import UsageError, UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clipjax data make` to its parser."""
    parser.add_argument(
        "--from",
        dest="address",
        required=True,
        metavar="ADDRESS",
        help="a .csv, .tsv, .jsonl or .parquet that lists images; a folder of images with "
        "captions beside them or in class folders; tfds:NAME:SPLIT; or shards as data.shards takes "
        "them (patterns, URLs, a folder that `clipjax data index` made)",
    )
    parser.add_argument("--root", default="", metavar="DIR", help="where relative paths start")
    parser.add_argument(
        "--image-column", metavar="NAME", help="of the image paths, if not a usual name"
    )
    parser.add_argument(
        "--caption-column", metavar="NAME", help="of the captions, if not a usual name"
    )
    parser.add_argument(
        "--caption",
        default="txt",
        metavar="WHERE",
        help="txt, or json.FIELD for another column or feature; of several and of a list the "
        "first is taken "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        metavar="MEMBERS",
        help="what to write beside image and caption, of json (all other columns) and cls (class "
        "numbers), with a comma between (default: json of lists and tfds, nothing of others)",
    )
    parser.add_argument(
        "--format",
        choices=("keep", "jpg"),
        default="keep",
        help="keep the bytes of the images, or make JPEGs of those that are none "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--quality", type=int, default=95, metavar="N", help="of such JPEGs (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    add_output_arguments(parser)
    add_remote_flags(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --out, --shard-size, --threads and --max-pixels."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--shard-size",
        type=int,
        default=1000,
        metavar="N",
        help="samples a shard, at most 10,000 (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=min(32, 2 * (os.cpu_count() or 1)),
        metavar="N",
        help="that read and convert (default: %(default)s)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=1 << 26,
        metavar="N",
        help="images that claim more are dropped (default: %(default)s)",
    )


def check_output_arguments(args: argparse.Namespace) -> None:
    """Raises UsageError for a number that cannot be."""
    limits = {"shard_size": (1, 10_000), "threads": (1, 1024), "quality": (1, 100)}
    limits |= {"limit": (1, 1 << 62), "resize": (1, 65_500), "max_pixels": (1, 1 << 40)}
    for name, (low, high) in limits.items():
        value = getattr(args, name, None)
        if value is not None and not low <= value <= high:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} {value}: wanted {low:,} to {high:,}.")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the shards and returns the content of their dataset.json.

    Raises:
        UserError: if the source cannot be used, or the folder holds something else.
    """
    check_output_arguments(args)
    check_caption(args.caption)
    from clipjax.data.captions import caption_members
    from clipjax.data.reshard import Reencoding, captioned, write_resharded
    from clipjax.data.sources.opening import kind_of, open_source

    kind = kind_of(args.address, args.root)
    keep = _kept(args.keep, kind)
    _check_columns(args, kind)
    how = Reencoding(
        quality=args.quality, always_jpeg=args.format == "jpg", max_pixels=args.max_pixels
    )
    try:
        source = open_source(
            args.address,
            args.root,
            tuple(dict.fromkeys((*caption_members(args.caption), *keep))),
            remote=remote_config(args),
            image_column=args.image_column,
            caption_column=args.caption_column,
        )
    except UserError as error:  # raised for a config: what is wrong is an argument here
        raise type(error)(_of_arguments(str(error))) from error
    arguments = {
        name: getattr(args, name)
        for name in ("address", "caption", "format", "quality", "limit", "shard_size")
    }
    try:
        figures = write_resharded(
            source,
            args.out,
            lambda sample: captioned(sample, args.caption, keep, how),
            made_by=("make", {**arguments, "keep": list(keep)}),
            shard_size=args.shard_size,
            limit=args.limit,
            threads=args.threads,
        )
    finally:
        source.close()
    print_figures(args.out, figures)
    return figures


def print_figures(out: str, figures: Mapping[str, Any]) -> None:
    """Prints one line: what was written, and what was dropped."""
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in figures["dropped"].items())
    tail = f"; dropped {dropped}, e.g. {figures['example_dropped']}" if dropped else ""
    print(f"{out}: {figures['samples']:,} samples in {figures['shards']:,} shards{tail}")


def _check_columns(args: argparse.Namespace, kind: str) -> None:
    for name in ("image_column", "caption_column"):
        if getattr(args, name) is not None and kind not in ("list", "tfds"):
            raise UsageError(
                f"--{name.replace('_', '-')} {getattr(args, name)}: only lists and TFDS data sets "
                f"have columns, and {args.address!r} is neither."
            )


def _of_arguments(message: str) -> str:
    message = message.partition(" Check both; set them with --config")[0]
    message = message.replace(" below data.root=''", "").replace("data.root=", "--root=")
    return message.replace("--config.data.shards=", "--from ").replace("data.shards", "--from")


def _kept(given: str | None, kind: str) -> tuple[str, ...]:
    if given is None:
        return ("json",) if kind in ("list", "tfds") else ()
    names = tuple(name for name in given.split(",") if name and name != "txt")
    for name in names:
        if name not in ("json", "cls"):
            raise UsageError(f"--keep {given}: no member {name!r}. There are: json, cls.")
    return names
