"""A command made of commands, as `clipjax data emoji`; only the one that is asked for loads."""

import argparse
import importlib
from collections.abc import Mapping
from typing import Any

from clipjax.cli.parser import Parser
from clipjax.config.errors import UsageError

Commands = Mapping[str, tuple[str, str, bool]]
"""By name: module, what it does, whether it reads --config and --config.FIELD=VALUE."""


def add_commands(parser: Parser, commands: Commands, name: str | None) -> None:
    """Adds the commands.

    Args:
        parser: of the command that they are parts of.
        commands: the parts.
        name: of the one that is asked for, if it is known.

    Raises:
        UsageError: if a flag stands where the name ought to be.
    """
    if name and name.startswith("-") and name not in ("-h", "--help"):
        raise UsageError(
            f"{parser.prog}: the command comes before {name}. There are: {', '.join(commands)}."
        )
    parts = parser.add_subparsers(dest="command", metavar="WHAT", required=True)
    for command, (module_name, meaning, _) in commands.items():
        if name not in commands:
            parts.add_parser(command, help=meaning)
        elif command == name:
            module = importlib.import_module(module_name)
            leaf = parts.add_parser(
                command,
                help=meaning,
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.configure(leaf)
    if name and not name.startswith("-") and name not in commands:
        parser.parse_args([name])  # raises with the nearest name


def run_command(whole: str, commands: Commands, args: argparse.Namespace) -> Any:
    """Runs the command that was asked for and returns its figures.

    Args:
        whole: the command that they are parts of, e.g. "data".
        commands: the parts.
        args: of the command line.

    Raises:
        UserError: of the command; for overrides where there is no config.
    """
    module_name, _, takes_config = commands[args.command]
    if getattr(args, "overrides", ()) and not takes_config:
        raise UsageError(f"clipjax {whole} {args.command}: takes no config: {args.overrides[0]}.")
    return importlib.import_module(module_name).run(args)
