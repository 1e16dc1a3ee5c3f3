"""Sends a folder of weights to the Hugging Face Hub; the repository is made if it is not there.

clipjax push models/mine hf:org/name --private
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from clipjax.cli.parser import Parser


def configure(parser: Parser) -> None:
    """Adds the flags."""
    parser.add_argument("directory", metavar="DIR", help="as clipjax convert wrote it")
    parser.add_argument("repository", metavar="hf:ORG/NAME", help="where to")
    parser.add_argument("--private", action="store_true", help="if the repository is made")
    parser.add_argument("--message", default="", metavar="TEXT", help="of the commit")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Sends; returns the address of the commit."""
    from clipjax.interchange import hub

    url = hub.push(
        Path(args.directory), args.repository, private=args.private, message=args.message
    )
    print(url)
    return {"commit": url}


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["push", *sys.argv[1:]])
