"""`clipjax data`: makes, checks, describes and measures shards, and shows what a run reads."""

import argparse
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.cli.subcommands import Commands, add_commands, run_command

COMMANDS: Commands = {
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
    "emoji-world": (
        "clipjax.cli.data_emoji_world",
        "458 small emoji with their edges, and 24 written words; needs no font",
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
    add_commands(parser, COMMANDS, name)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one command and returns its figures.

    Raises:
        UserError: of the command; for overrides where there is no config.
    """
    return run_command("data", COMMANDS, args)
