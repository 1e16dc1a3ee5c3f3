"""Draws the emoji of the fonts of this system and writes them with their names as shards.

clipjax data emoji --out data/emoji

Splits: train, and four that test what is learnt (combination: unseen skin tones of seen emoji;
concept: unseen emoji; style: line drawings of seen emoji; style_concept: line drawings of unseen
ones). Needs the Debian packages fonts-noto-color-emoji, fonts-symbola, unicode-cldr-core,
unicode-data.

clipjax data emoji --out data/emoji --facets colour,drawing,word,caption --locales en,de,ja

also writes data/emoji/stimuli: each emoji as a photo, a line drawing, its written name (and, as a
control, the same letters scrambled), captions in the languages asked for and, where espeak-ng is
installed, speech; one folder of shards each, and concepts.json with the keywords that they share.
What searches for multimodal neurons needs. Written words need fonts-dejavu-core.
"""

import argparse
import os
from collections.abc import Mapping
from typing import Any

from clipjax.config.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    add_maker_flags(parser, size=64)
    parser.add_argument(
        "--facets",
        metavar="LIST",
        help="also write stimuli, of these: colour,drawing,word,caption,speech (default: none)",
    )
    parser.add_argument(
        "--locales",
        metavar="LIST",
        help="languages of the facet caption, as the CLDR calls them, e.g. en,de,ja (default: en)",
    )
    parser.add_argument(
        "--views",
        type=int,
        metavar="N",
        help="pictures of each word, and voices that speak it (default: 4)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the data set and returns the content of its dataset.json.

    Raises:
        UserError: if a font is missing, or the folder holds something else.
    """
    for name in ("locales", "views"):
        if args.facets is None and getattr(args, name) is not None:
            raise UsageError(f"--{name}: is of --facets, which is missing. Name the facets too.")
    from clipjax.data.emoji import make_emoji
    from clipjax.data.stimuli import check_facets, make_stimuli

    asked: dict[str, Any] = {"size": args.size, "seed": args.seed}
    if args.facets is not None:
        asked |= {"facets": _list(args.facets), "locales": _list(args.locales or "en")}
        asked |= {} if args.views is None else {"views": args.views}
        check_facets(asked["facets"])  # before minutes of drawing
    made = make_emoji(args.out, size=args.size, seed=args.seed)
    print_splits(args.out, made)
    if args.facets is None:
        return made
    folder = os.path.join(args.out, "stimuli")
    stimuli = make_stimuli(folder, **asked)
    counts = ", ".join(f"{name} {count:,}" for name, count in stimuli["facets"].items())
    print(f"{folder}: {counts}; {stimuli['stimuli']:,} stimuli, {stimuli['concepts']} concepts")
    return {**made, "stimuli": stimuli}


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


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
