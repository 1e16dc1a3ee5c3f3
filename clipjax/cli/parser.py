"""argparse whose mistakes are one line with the nearest name."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from clipjax.config.errors import UsageError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError and does not complete abbreviations."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises UsageError instead of printing the usage and leaving."""
        if "invalid choice: " in message:
            found = message.partition("invalid choice: ")[2].split(" ", 1)[0].strip("'\"")
            choices = [c for action in self._actions if action.choices for c in action.choices]
            raise UsageError(
                f"{self.prog}: no {message.split(':')[0].removeprefix('argument ')} {found!r}."
                f"{did_you_mean(found, choices)} There are: {', '.join(choices)}."
            )
        raise UsageError(f"{self.prog}: {message}. See {self.prog} --help.")

    def leaves(self) -> Iterator["Parser"]:
        """Yields the parsers of sub-commands, or itself if there are none."""
        subparsers = [a for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        if not subparsers:
            yield self
        for action in subparsers:
            for parser in dict.fromkeys(action.choices.values()):
                yield from parser.leaves()

    def flags(self) -> list[str]:
        """Returns all flags, of sub-commands too."""
        own = [flag for action in self._actions for flag in action.option_strings]
        return own + [f for leaf in self.leaves() if leaf is not self for f in leaf.flags()]


def reject_unknown_flags(parser: Parser, argv: Sequence[str]) -> None:
    """Raises UsageError for the first flag that the parser does not know, before it parses.

    argparse itself would rather complain about what is missing.
    """
    known = parser.flags()
    for arg in argv:
        name = arg.partition("=")[0]
        if name.startswith("--") and name not in known:
            raise UsageError(
                f"{parser.prog}: no flag {name}.{did_you_mean(name, known)} "
                f"See {parser.prog} --help."
            )
