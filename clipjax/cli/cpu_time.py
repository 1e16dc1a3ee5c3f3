"""CPU time of a process with all its descendants, read from Linux's /proc."""

import os
import time
from pathlib import Path

_PROC = Path("/proc")
_POLL_SECONDS = 0.05
# A tick in a quiet window is a thread that wakes up to look whether it is to stop, not work.
_IDLE_TICKS = 1


def tree_cpu_seconds(root: int) -> float:
    """Returns user and system time of a process, its live descendants, and those it has reaped.

    What a descendant used counts once: in its own line while it lives or is a zombie, in that of
    its parent after. A process whose parent has ended without waiting for it is lost.

    Args:
        root: process id.

    Raises:
        ProcessLookupError: if there is no such process.
    """
    ticks = sum(sum(map(int, fields[11:15])) for fields in _tree(root).values())
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(
    root: int, *, quiet_seconds: float = 0.3, most_seconds: float = 300.0
) -> tuple[float, float]:
    """Waits until a process and its descendants rest.

    They rest when they use no CPU and no thread of them waits for one, or for a disk: on a busy
    machine a process may get no CPU for a while and still have work.

    Args:
        root: process id.
        quiet_seconds: how long they have to rest.
        most_seconds: to wait.

    Returns:
        Their CPU seconds, and since when they rest, in the time of `time.perf_counter`.

    Raises:
        ProcessLookupError: if there is no such process.
        TimeoutError: if they do not rest in time.
    """
    tick = 1 / os.sysconf("SC_CLK_TCK")
    start = since = time.perf_counter()
    reference = seconds = tree_cpu_seconds(root)
    while time.perf_counter() - since < quiet_seconds:
        if time.perf_counter() - start > most_seconds:
            raise TimeoutError(f"is still working after {most_seconds:g} s")
        time.sleep(_POLL_SECONDS)
        seconds = tree_cpu_seconds(root)
        if seconds - reference > (_IDLE_TICKS + 0.5) * tick or _is_busy(root):
            reference, since = seconds, time.perf_counter()
    return seconds, since


def _tree(root: int) -> dict[int, list[str]]:
    """Returns the fields of /proc/PID/stat, from the state on, of each process of the tree."""
    children: dict[int, list[int]] = {}
    stats: dict[int, list[str]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _fields(entry)):
            stats[int(entry.name)] = fields
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    if root not in stats:
        raise ProcessLookupError(f"there is no process {root}")
    found, waiting = {}, [root]
    while waiting:
        process = waiting.pop()
        found[process] = stats[process]
        waiting += children.get(process, [])
    return found


def _fields(entry: Path) -> list[str]:
    try:
        stat = (entry / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has ended since it was listed
    return stat.rpartition(")")[2].split()  # the name may hold anything, brackets too


def _is_busy(root: int) -> bool:
    for process in _tree(root):
        try:
            threads = list((_PROC / str(process) / "task").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(fields[0] in "RD" for thread in threads if (fields := _fields(thread))):
            return True
    return False
