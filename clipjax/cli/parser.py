"""argparse whose mistakes are one line with the nearest name."""

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from clipjax.config.errors import UsageError, UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError and does not complete abbreviations."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises UsageError instead of printing the usage and leaving."""
        if "invalid choice: " in message:
            found = message.partition("invalid choice: ")[2].split(" ", 1)[0].strip("'\"")
            named = message.partition(":")[0].removeprefix("argument ")
            choices = [
                c
                for action in self._actions
                if named in _names(action)
                for c in action.choices or ()
            ]
            raise UsageError(
                f"{self.prog}: no {named} {found!r}."
                f"{did_you_mean(found, choices)} There are: {', '.join(choices)}."
            )
        raise UsageError(f"{self.name()}: {message}. See {self.name()} --help.")

    def name(self) -> str:
        """Returns its name on the command line: that of its sub-command, if only one is known."""
        leaves = list(self.leaves())
        return leaves[0].prog if len(leaves) == 1 else self.prog

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
                f"{parser.name()}: no flag {name}.{did_you_mean(name, known)} "
                f"See {parser.name()} --help."
            )


def check_writable(flag: str, path: str) -> None:
    """Raises UserError if a file could not be written: before the work, not after it."""
    folder = os.path.dirname(path) or "."
    problem = ""
    if not os.path.isdir(folder):
        problem = f"there is no folder {folder}"
    elif os.path.isdir(path):
        problem = "it is a folder"
    elif not os.access(path if os.path.exists(path) else folder, os.W_OK):
        problem = "permission denied"
    if problem:
        raise UserError(f"{flag}={path}: cannot be written ({problem}).")


def check_seed(seed: int) -> None:
    """Raises UsageError for a seed that NumPy takes no draws from."""
    if seed < 0:
        raise UsageError(f"--seed={seed}: expected 0 or more.")


def listed(text: str | None) -> tuple[str, ...]:
    """Returns the names that a flag lists.

    >>> listed("photo, word,")
    ('photo', 'word')
    """
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _names(action: argparse.Action) -> list[str]:
    return [
        *action.option_strings,
        "/".join(action.option_strings),
        str(action.metavar),
        action.dest,
    ]


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --model, --preset and --step, which say what `clipjax.inference.load` loads."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="--workdir of a run, hf:ORG/NAME, folder, file of weights or preset",
    )
    parser.add_argument("--preset", metavar="NAME", help="which model a file of weights is")
    parser.add_argument(
        "--step", type=int, metavar="N", help="checkpoint of a run; the newest by default"
    )


def add_seeds_flag(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Adds --seeds, whole numbers; 0, 1 and 2 by default."""
    parser.add_argument(
        "--seeds",
        default="0,1,2",
        type=_whole_numbers,
        metavar="N[,N...]",
        help=f"{meaning} (default: %(default)s)",
    )


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds {text}: wanted whole numbers, e.g. 0,1,2.") from None


def simulate_devices(count: int) -> None:
    """Gives JAX so many devices on the CPU; before it is first used."""
    flag = f"--xla_force_host_platform_device_count={count}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
