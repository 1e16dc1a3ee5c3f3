"""`clipjax data`: makes small data sets of real image-text pairs, without a download."""

import argparse
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clipjax data` to its parser."""
    makers = parser.add_subparsers(dest="maker", metavar="WHAT", required=True)

    emoji = makers.add_parser(
        "emoji",
        help="about 3,600 emoji with their names, drawn from the fonts of this system",
        description="Draws the emoji of the fonts of this system and writes them with their "
        "names as WebDataset shards: train, and four splits that test what is learnt "
        "(combination: unseen skin tones of seen emoji; concept: unseen emoji; style: line "
        "drawings of seen emoji; style_concept: line drawings of unseen ones). Needs the Debian "
        "packages fonts-noto-color-emoji, fonts-symbola, unicode-cldr-core, unicode-data.",
    )
    _add_common(emoji, size=64)

    digits = makers.add_parser(
        "digits",
        help="two handwritten digits side by side, from scikit-learn; needs no font",
        description="Composes pictures of two handwritten digits from scikit-learn's 1,797 and "
        "writes them with captions such as 'a handwritten three seven' as WebDataset shards: "
        "train (80 of 100 numbers), seen (the same numbers of other images), unseen (the other "
        "20 numbers). Needs pip install 'clipjax[digits]'.",
    )
    _add_common(digits, size=32)
    digits.add_argument(
        "--train-samples",
        type=int,
        default=8000,
        metavar="N",
        help="pairs to train on (default: %(default)s)",
    )
    digits.add_argument(
        "--eval-samples-per-number",
        type=int,
        default=20,
        metavar="N",
        help="pairs of each number in the splits seen and unseen (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the data set and returns the content of its dataset.json.

    Raises:
        UserError: if a font or a package is missing, or the folder holds something else.
    """
    if args.maker == "emoji":
        from clipjax.data.emoji import make_emoji

        return make_emoji(args.out, size=args.size, seed=args.seed)
    from clipjax.data.digits import make_digits

    return make_digits(
        args.out,
        size=args.size,
        seed=args.seed,
        train_samples=args.train_samples,
        eval_samples_per_number=args.eval_samples_per_number,
    )


def _add_common(parser: argparse.ArgumentParser, *, size: int) -> None:
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
