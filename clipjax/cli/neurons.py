"""`clipjax neurons`: finds, proves, shows and moves units of a model that mean something."""

import argparse
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.cli.subcommands import Commands, add_commands, run_command

COMMANDS: Commands = {
    "vis": (
        "clipjax.cli.neurons_vis",
        "draw what units would like to see",
        False,
    ),
}


def configure(parser: Parser, name: str | None = None) -> None:
    """Adds the commands; only the one that is asked for is imported.

    Args:
        parser: of `clipjax neurons`.
        name: of the command, if it is known.
    """
    add_commands(parser, COMMANDS, name)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one command and returns its figures.

    Raises:
        UserError: of the command; for overrides where there is no config.
    """
    return run_command("neurons", COMMANDS, args)
