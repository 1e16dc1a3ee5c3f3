"""Where the time of loading goes: seconds of each stage, over all threads."""

import threading
import time
from collections import Counter
from collections.abc import Mapping

SHARE_WORTH_A_WORD = 0.05


class StageClock:
    """Adds up the seconds between laps; each thread has its own watch.

    In wall-clock time, so that waiting for a disk or a server counts where it happens.
    """

    def __init__(self):
        self._watch = threading.local()
        self._all: list[Counter[str]] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Starts the watch of this thread."""
        if not hasattr(self._watch, "seconds"):
            self._watch.seconds = Counter()
            with self._lock:
                self._all.append(self._watch.seconds)
        self._watch.last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Counts the time since the last lap of this thread for a stage."""
        now = time.perf_counter()
        self._watch.seconds[stage] += now - self._watch.last
        self._watch.last = now

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each stage so far."""
        total: Counter[str] = Counter()
        with self._lock:
            for seconds in self._all:
                total.update(dict(seconds))
        return dict(total)


def shares(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Returns which share of the time between two readings each stage took, largest first.

    >>> shares({"read": 1.0}, {"read": 2.0, "decode": 3.0})
    {'decode': 0.75, 'read': 0.25}
    """
    spent = {stage: after[stage] - before.get(stage, 0.0) for stage in after}
    total = sum(spent.values())
    ranked = sorted(spent.items(), key=lambda item: -item[1])
    return {stage: seconds / total for stage, seconds in ranked if total and seconds > 0}


def verdict(wait_share: float, stage_shares: Mapping[str, float]) -> str:
    """Returns what the waiting for input is due to; "" where it is not worth a word.

    >>> verdict(0.37, {"decode": 0.8, "read": 0.15, "tokenize": 0.05})
    'input-bound 37 %: decode 80 %, read 15 %, tokenize 5 %'
    >>> verdict(0.05, {"decode": 1.0})
    ''
    """
    if wait_share <= SHARE_WORTH_A_WORD:
        return ""
    stages = ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in stage_shares.items())
    return f"input-bound {100 * wait_share:.0f} %: {stages}"
