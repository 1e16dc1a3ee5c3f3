"""The error that a person can mend, and the nearest name for a misspelt one."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the person who typed or prepared something can mend.

    The command line ends with its text in one line on standard error. The text says where (field,
    file, shard, key), what was found, what was expected and what to do.
    """

    exit_status = 1


class UsageError(UserError):
    """A command line or a config that cannot be used; the exit status is 2."""

    exit_status = 2


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the nearest of `known`, or an empty string.

    >>> did_you_mean("widht", ["width", "depth"])
    " Did you mean 'width'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
