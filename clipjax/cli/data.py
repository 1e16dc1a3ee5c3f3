"""`clipjax data`: makes, checks, describes and measures shards, and shows what a run reads."""

import argparse
import importlib
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.config.errors import UsageError

# name: (module, what it does, whether it reads --config and --config.FIELD=VALUE)
COMMANDS = {
    "emoji": (
        "clipjax.cli.data_emoji",
        "about 3,600 emoji with their names, from the fonts of this system",
        False,
    ),
    "digits": (
        "clipjax.cli.data_digits",
        "two handwritten digits side by side, from scikit-learn; needs no font",
        False,
    ),
    "photos": (
        "clipjax.cli.data_photos",
        "crops of photographs on this system, to measure speed with",
        False,
    ),
    "make": ("clipjax.cli.data_make", "write shards from a list, a folder or TFDS", False),
    "index": ("clipjax.cli.data_index", "index shards, filter, make a manifest", False),
    "check": ("clipjax.cli.data_check", "walk shards and report what is wrong with them", False),
    "stats": ("clipjax.cli.data_stats", "draw the distributions of sizes and captions", False),
    "reshard": ("clipjax.cli.data_reshard", "rewrite shards: smaller images, other sizes", False),
    "show": ("clipjax.cli.data_show", "show any past or future batch of a run", True),
    "blame": ("clipjax.cli.data_blame", "say at which steps a run sees a sample", True),
    "bench": ("clipjax.cli.bench_data", "measure loading, interleaved with a rival's", False),
}


def configure(parser: Parser, name: str | None = None) -> None:
    """Adds the commands; only the one that is asked for is imported.

    Args:
        parser: of `clipjax data`.
        name: of the command, if it is known.
    """
    if name and name.startswith("-") and name not in ("-h", "--help"):
        raise UsageError(
            f"clipjax data: the command comes before {name}. There are: {', '.join(COMMANDS)}."
        )
    commands = parser.add_subparsers(dest="command", metavar="WHAT", required=True)
    for command, (module_name, meaning, _) in COMMANDS.items():
        if name not in COMMANDS:
            commands.add_parser(command, help=meaning)
        elif command == name:
            module = importlib.import_module(module_name)
            leaf = commands.add_parser(
                command,
                help=meaning,
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.configure(leaf)
    if name and not name.startswith("-") and name not in COMMANDS:
        parser.parse_args([name])  # raises with the nearest name


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one command and returns its figures.

    Raises:
        UserError: of the command; for overrides where there is no config.
    """
    module_name, _, takes_config = COMMANDS[args.command]
    if args.overrides and not takes_config:
        raise UsageError(f"clipjax data {args.command}: takes no config: {args.overrides[0]}.")
    return importlib.import_module(module_name).run(args)
