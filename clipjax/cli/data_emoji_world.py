"""Writes the emoji that come with the package as shards: pictures, edges and written words.

clipjax data emoji-world --out data/emoji-world

Splits to train on: photo and edges, 181 emoji at several places and sizes, and word, the names of
24 concepts in many places and colours. Splits to evaluate on: held_out, 41 emoji that training
lacks, and reading, pictures of the words that it lacks; they are named among 24. Needs no font.
configs/emoji_neurons.py trains on them; --config.data.shards chooses which, and
--config.data.shuffled_captions=True pairs each picture with the caption of another.
"""

import argparse
from typing import Any

from clipjax.cli.data_emoji import print_splits


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of places, sizes and colours (0)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Writes the data set and returns the content of its dataset.json.

    Raises:
        UserError: if the folder holds something else.
    """
    from clipjax.data.world_shards import make_emoji_world

    made = make_emoji_world(args.out, seed=args.seed)
    print_splits(args.out, made)
    return made
