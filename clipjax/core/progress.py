"""Progress of long work: one live line on a terminal, plain lines in a log."""

import sys
import time
from typing import TextIO


class Progress:
    """Counts units of work and says the rate and the time left.

    On a terminal one line is rewritten four times a second; elsewhere a plain line is printed at
    most every `log_seconds` seconds and once at the end. Everything goes to standard error, so
    that standard output stays free for figures.

    Args:
        what: what is being done, e.g. "rendering emoji".
        total: number of units, or None if it is not known.
        unit: name of a unit in the plural.
        log_seconds: seconds between the plain lines.
        quiet_seconds: work that takes no longer is not worth a word.
        stream: where to write; standard error by default.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str = "samples",
        *,
        log_seconds: float = 10.0,
        quiet_seconds: float = 0.0,
        stream: TextIO | None = None,
    ):
        self._what, self._total, self._unit = what, total, unit
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._every_seconds = 0.25 if self._live else log_seconds
        self._start = self._last = time.monotonic()
        self._quiet_until = self._start + quiet_seconds
        self.done = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if time.monotonic() < self._quiet_until:
            return
        if kind is None:
            self._write(final=True)
        elif self._live:
            self._stream.write("\n")

    def advance(self, units: int = 1, detail: str = "") -> None:
        """Counts `units` more; `detail` is shown behind the numbers."""
        self.done += units
        now = time.monotonic()
        if now - self._last >= self._every_seconds and now >= self._quiet_until:
            self._last = now
            self._write(detail)

    def _write(self, detail: str = "", *, final: bool = False) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = self.done / seconds
        of = f"/{self._total:,}" if self._total is not None else ""
        parts = [f"{self._what}: {self.done:,}{of} {self._unit}", f"{format_rate(rate)}/s"]
        if final:
            parts.append(f"in {format_seconds(seconds)}")
        elif self._total is not None and rate > 0:
            parts.append(f"ETA {format_seconds((self._total - self.done) / rate)}")
        if detail:
            parts.append(detail)
        line = "  ".join(parts)
        if self._live:
            self._stream.write(f"\r\x1b[2K{line}" + ("\n" if final else ""))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


def format_rate(rate: float) -> str:
    """Returns a rate with three digits that matter.

    >>> format_rate(12345.6), format_rate(3.14159)
    ('12,346', '3.14')
    """
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def format_seconds(seconds: float) -> str:
    """Returns a duration as a person says it.

    >>> format_seconds(3.21), format_seconds(75.0), format_seconds(3 * 3600 + 62.0)
    ('3.2 s', '1 min 15 s', '3 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
