"""Draws the emoji of the fonts of this system and writes them with their names as shards.

clipjax data emoji --out data/emoji

Splits: train, and four that test what is learnt (combination: unseen skin tones of seen emoji;
concept: unseen emoji; style: line drawings of seen emoji; style_concept: line drawings of unseen
ones). Needs the Debian packages fonts-noto-color-emoji, fonts-symbola, unicode-cldr-core,
unicode-data.
"""

import argparse
from collections.abc import Mapping
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    add_maker_flags(parser, size=64)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the data set and returns the content of its dataset.json.

    Raises:
        UserError: if a font is missing, or the folder holds something else.
    """
    from clipjax.data.emoji import make_emoji

    made = make_emoji(args.out, size=args.size, seed=args.seed)
    print_splits(args.out, made)
    return made


def print_splits(out: str, made: Mapping[str, Any]) -> None:
    """Prints one line: how many pairs each split has."""
    print(f"{out}: " + ", ".join(f"{name} {count:,}" for name, count in made["splits"].items()))


def add_maker_flags(parser: argparse.ArgumentParser, *, size: int) -> None:
    """Adds the flags of commands that make a data set of small pictures."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--size",
        type=int,
        default=size,
        metavar="PIXELS",
        help="side of the square images (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="chooses what is held out (default: %(default)s)",
    )
