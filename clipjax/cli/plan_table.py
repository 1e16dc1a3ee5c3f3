"""Plans that were saved, as one table in Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]

_HEAD = (
    *("config", "machine", "batch", "GiB of a device", "ms a step", "samples/s"),
    "accelerator-hours",
)


def plan_table(plans: Sequence[Figures]) -> str:
    """Returns a row for each plan; one with stages has a row for each and one for all of them.

    Args:
        plans: of `clipjax plan --json`.
    """
    rows = [row for figures in plans for row in _rows(figures)]
    lines = [_HEAD, ("---",) * len(_HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    name, machine = _name(figures), figures["topology"]["name"]
    for stage in figures["stages"]:
        named = f"{name}, {stage['name'] or 'first'}" if len(figures["stages"]) > 1 else name
        step, bounds = "", stage["roofline"]
        if bounds is not None:
            step = _range([1e3 * seconds for seconds in bounds["step_seconds"]], ",.1f")
        batch = f"{stage['global_batch_size']:,}"
        yield named, machine, batch, _memory(stage["memory"]), step, *_of_run(bounds)
    if len(figures["stages"]) > 1:
        fits = "fits" if figures["fits"] else "does not fit"
        yield f"{name}, all", machine, "", fits, "", *_of_run(figures["total"])
    for row in figures["remedies"] or ():
        if row["fits"]:
            flags = " ".join(row["overrides"])
            yield f"{name} `{flags}`", machine, "", f"{row['needed'] / 2**30:.1f}", "", "", ""


def _name(figures: Figures) -> str:
    path, _, argument = figures["config"].partition(":")
    name = f"{Path(path).stem}{':' + argument if argument else ''}"
    return f"{name} `{' '.join(figures['overrides'])}`" if figures["overrides"] else name


def _memory(memory: Figures) -> str:
    needed = f"{memory['needed'] / 2**30:.1f}"
    if memory["usable"] is None:
        return needed
    told = f"{needed} of {memory['usable'] / 2**30:.1f}"
    return told if memory["fits"] else f"**{told}: does not fit**"


def _of_run(bounds: Figures | None) -> tuple[str, str]:
    if bounds is None:
        return "", ""
    fastest, slowest = bounds["samples_per_second"]
    return _range([slowest, fastest], ",.0f"), _range(bounds["accelerator_hours"], ",.1f")


def _range(values: Sequence[float], form: str) -> str:
    return f"{values[0]:{form}} to {values[1]:{form}}"
