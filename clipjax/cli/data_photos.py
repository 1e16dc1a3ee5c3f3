"""Writes shards of crops of photographs on this system, to measure the speed of loading with.

clipjax data photos --out data/photos --set longest512

From Debian's package mate-backgrounds, or else from scikit-image and scikit-learn where they are
installed. Their captions only have the length and the odd characters of real ones.
"""

import argparse
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--set",
        choices=["longest512", "shortest512", "square256"],
        default="longest512",
        help="size and quality: 512 pixels the longest or the shortest side at quality 95, or "
        "256 x 256 at quality 85 (default: %(default)s)",
    )
    parser.add_argument(
        "--samples", type=int, default=2000, metavar="N", help="pairs (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the crops (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the set, prints what it is like and returns the content of its dataset.json.

    Raises:
        UserError: if there are no photographs, or the folder holds something else.
        UsageError: for a number of samples that cannot be.
    """
    from clipjax.config import UsageError
    from clipjax.data.photos import make_photos

    if args.samples < 1:
        raise UsageError(f"--samples={args.samples} must be positive.")
    if not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed {args.seed}: wanted 0 to 2**63 - 1.")
    made = make_photos(args.out, kind=args.set, samples=args.samples, seed=args.seed)
    print(
        f"{args.out}: {made['samples']:,} pairs from {made['photographs']} photographs of "
        f"{made['photographs_from']}, {made['mean_bytes']:,} bytes and "
        f"{made['mean_bits_per_pixel']:.2f} bits a pixel on average"
    )
    return made
