"""What is wrong with a tar shard, counted, and names from it made fit to be shown."""

import collections
import dataclasses
from collections.abc import Mapping

_HARMLESS = frozenset(("directory",))
_SHOWN_CHARACTERS = 200


@dataclasses.dataclass(frozen=True)
class Damage:
    """What is wrong with a tar, and what it cost.

    Attributes:
        counts: by reason: "header checksum" (a damaged header, after which reading went on at the
            next good one), "truncated" (the end is missing), "zero blocks" (an end mark with
            something behind it), "no end mark", "duplicate member", "split sample" (a member that
            does not lie beside the others of its key), "bad name", "bad extension", "sparse",
            "link", "device", "unknown type"; and "directory", which is no damage.
        lost_bytes: passed over to reach the next good header.
        first: the member or the byte where the first was found, or "".
    """

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    lost_bytes: int = 0
    first: str = ""

    def __bool__(self) -> bool:
        return bool(self.harmful())

    def harmful(self) -> dict[str, int]:
        """Returns the counts of what is really damage."""
        return {reason: n for reason, n in self.counts.items() if reason not in _HARMLESS}

    def summary(self) -> str:
        """Returns one line for a person, or "" for a sound tar.

        >>> Damage({"link": 2}, 0, "a.jpg").summary()
        'link 2; first: a.jpg'
        """
        if not self:
            return ""
        parts = [", ".join(f"{reason} {n:,}" for reason, n in self.harmful().items())]
        if self.lost_bytes:
            parts.append(f"{self.lost_bytes:,} bytes passed over")
        return "; ".join([*parts, f"first: {self.first}"])


class DamageCounter:
    """Gathers a `Damage` while a tar is read."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._first = ""
        self.lost_bytes = 0

    def add(self, reason: str, where: str | int) -> None:
        """Counts one case; `where` is a member's name or the byte of a header."""
        self._counts[reason] += 1
        if not self._first and reason not in _HARMLESS:
            self._first = f"byte {where:,}" if isinstance(where, int) else printable(where)

    def result(self) -> Damage:
        """Returns what was counted so far."""
        return Damage(dict(self._counts), self.lost_bytes, self._first)


def printable(name: str) -> str:
    r"""Returns a name from a tar as it may be shown: nothing in it can steer a terminal.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    shown = "".join(_escaped(c) for c in name[:_SHOWN_CHARACTERS])
    return shown if len(name) <= _SHOWN_CHARACTERS else shown + "..."


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that was not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
