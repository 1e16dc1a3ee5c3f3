"""Composes pictures of two handwritten digits from scikit-learn's 1,797 and writes shards.

clipjax data digits --out data/digits

Captions such as 'a handwritten three seven'; splits: train (80 of 100 numbers), seen (the same
numbers of other images), unseen (the other 20 numbers). Needs pip install 'clipjax[digits]'.
"""

import argparse
from typing import Any

from clipjax.cli.data_emoji import add_maker_flags, print_splits


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    add_maker_flags(parser, size=32)
    parser.add_argument(
        "--train-samples",
        type=int,
        default=8000,
        metavar="N",
        help="pairs to train on (default: %(default)s)",
    )
    parser.add_argument(
        "--eval-samples-per-number",
        type=int,
        default=20,
        metavar="N",
        help="pairs of each number in the splits seen and unseen (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the data set and returns the content of its dataset.json.

    Raises:
        UserError: if scikit-learn is missing, or the folder holds something else.
    """
    from clipjax.data.digits import make_digits

    made = make_digits(
        args.out,
        size=args.size,
        seed=args.seed,
        train_samples=args.train_samples,
        eval_samples_per_number=args.eval_samples_per_number,
    )
    print_splits(args.out, made)
    return made
