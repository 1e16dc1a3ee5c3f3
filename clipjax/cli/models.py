"""Lists the published models that have a preset, with their sizes and costs.

  clipjax models
  clipjax models --filter '*SigLIP*'
  clipjax models --filter 'ViT-B-*' --json -

Millions of parameters and GFLOP of one forward pass: of the pair, of the image, of the text.
Everything is computed from the config of a preset. `clipjax.list_models()` returns the same rows.
"""

import argparse
import sys
from typing import Any

from clipjax.cli.parser import Parser


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--filter", metavar="PATTERN", help="only names like this; '*' stands for anything"
    )


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints a line for each model and returns the rows."""
    from clipjax.models.listing import matching, rows

    width = max(map(len, matching(args.filter)))
    print(
        f"{'model':{width}}  pixels  tokens  embed  "
        f"{'params M':>9} {'image':>8} {'text':>8}  {'GFLOP':>9} {'image':>8} {'text':>8}"
    )
    found = []
    for row in rows(args.filter):
        print(_line(row, width), flush=True)
        found.append(row)
    return found


def _line(row: dict[str, Any], width: int) -> str:
    params = [row[f"{of}params"] / 1e6 for of in ("", "image_", "text_")]
    flops = [row[f"{of}flops"] / 1e9 for of in ("", "image_", "text_")]
    return (
        f"{row['name']:{width}}  {row['image_size']:6}  {row['context_length']:6}  "
        f"{row['embed_dim']:5}  {params[0]:9.2f} {params[1]:8.2f} {params[2]:8.2f}  "
        f"{flops[0]:9.2f} {flops[1]:8.2f} {flops[2]:8.2f}"
    )


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["models", *sys.argv[1:]])
