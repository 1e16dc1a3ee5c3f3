"""Writes a model in the files of another codebase, with a certificate that nothing changed.

clipjax convert hf:org/name models/b32 --to clipjax
clipjax convert runs/mine models/mine --to transformers
clipjax convert weights.safetensors models/b32 --to open_clip --preset ViT-B-32
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.config import UserError

FORMATS = ("transformers", "open_clip", "big_vision", "clipjax")


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="hf:ORG/NAME, a folder, the --workdir of a run, or a file of weights with --preset",
    )
    parser.add_argument("destination", metavar="DST", help="folder to write")
    parser.add_argument("--to", required=True, choices=FORMATS, help="whose files")
    parser.add_argument("--preset", metavar="NAME", help="which model a file of weights is")
    parser.add_argument(
        "--step", type=int, metavar="N", help="checkpoint of a run; the newest by default"
    )
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Converts; returns the certificate."""
    from clipjax.cli.reference_outputs import installed_outputs
    from clipjax.interchange.certificate import worst
    from clipjax.interchange.convert import convert, targets
    from clipjax.interchange.pretrained import open_pretrained

    if args.to not in targets():
        raise UserError(f"--to={args.to}: cannot be written. There are: {', '.join(targets())}.")
    destination = Path(args.destination)
    if not destination.absolute().parent.is_dir():
        raise UserError(f"{destination}: there is no folder {destination.absolute().parent}.")
    source = open_pretrained(args.source, preset_name=args.preset, step=args.step)
    certificate = convert(source, destination, args.to, force=args.force, rival=installed_outputs)
    print(f"{destination}: {args.to}, from {source.format}")
    for against, embeds, logits in worst(certificate["differences"]):
        print(f"  {against}: embeddings differ by {embeds:.2g} at most, logits by {logits:.2g}")
    return certificate


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["convert", *sys.argv[1:]])
