"""The figures of a plan, as text for a terminal and as a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.core import html

Figures = Mapping[str, Any]
_Row = tuple[str, ...]

_CLASSES = ("parameters", "optimizer", "ema", "batch", "activations", "loss", "other")


def plan_text(figures: Figures) -> str:
    """Returns what `clipjax plan` prints.

    Args:
        figures: of `clipjax plan --json`.
    """
    blocks = [
        _headline(figures),
        *(f"warning: {line}" for line in figures["warnings"]),
        _aligned(("memory of a device", "GiB", ""), _memory_rows(figures)),
        _verdict(figures),
        _flops(figures),
    ]
    if figures["collectives"] is not None:
        blocks.append(_aligned(_COLLECTIVE_HEAD, _collective_rows(figures)))
    if figures["roofline"] is not None:
        blocks.append(_aligned(("bounds", "all overlaps", "nothing does"), _time_rows(figures)))
        blocks.append(_bound(figures))
    if figures["remedies"] is not None:
        blocks.append(_aligned(("what to change", "GiB", ""), _remedy_rows(figures)))
    if figures["largest_batch"] is not None:
        blocks.append(_largest(figures))
    blocks.append("assumed:\n" + "\n".join(f"- {line}" for line in figures["assumptions"]))
    return "\n\n".join(block for block in blocks if block)


def plan_page(figures: Figures) -> str:
    """Returns the same as one page of HTML.

    Args:
        figures: of `clipjax plan --json`.
    """
    memory = figures["memory"]
    parts = [(name, memory[name]) for name in _CLASSES if memory[name]]
    blocks = [
        html.paragraph(_headline(figures)),
        html.bullets(figures["warnings"]) if figures["warnings"] else "",
        html.heading("Memory of a device"),
        html.bar(parts, memory["usable"] or memory["needed"]),
        html.table(("", "GiB", ""), _memory_rows(figures)),
        html.paragraph(_verdict(figures)),
        html.heading("Arithmetic"),
        html.paragraph(_flops(figures)),
    ]
    if figures["collectives"] is not None:
        rows = _collective_rows(figures)
        blocks += [
            html.heading("What devices say to each other"),
            html.table(_COLLECTIVE_HEAD, rows),
        ]
    if figures["roofline"] is not None:
        blocks += [
            html.heading("Time, at best"),
            html.table(("", "all overlaps", "nothing does"), _time_rows(figures)),
            html.paragraph(_bound(figures)),
        ]
    if figures["remedies"] is not None:
        blocks += [
            html.heading("What to change"),
            html.table(("", "GiB", ""), _remedy_rows(figures)),
        ]
    if figures["largest_batch"] is not None:
        blocks.append(html.paragraph(_largest(figures)))
    blocks += [html.heading("Assumed"), html.bullets(figures["assumptions"])]
    return html.page(f"Plan of {figures['config']} on {figures['topology']['name']}", *blocks)


def _headline(figures: Figures) -> str:
    mesh = ", ".join(f"{name} {size}" for name, size in figures["mesh"].items() if size > 1)
    quick = ", least optimisation" if figures["quick"] else ""
    return (
        f"{figures['config']} {' '.join(figures['overrides'])}".rstrip()
        + f" on {figures['topology']['name']} ({figures['topology']['devices']} devices; mesh: "
        f"{mesh or 'one device'}), batch {figures['global_batch_size']:,}, "
        f"remat {figures['remat']}, {figures['micro_batches']} micro-batches; traced in "
        f"{figures['seconds']['lower']:.1f} s, compiled in {figures['seconds']['compile']:.1f} s"
        f"{quick}."
    )


def _memory_rows(figures: Figures) -> list[_Row]:
    memory = figures["memory"]
    rows = [
        (name, _gib(memory[name]), "estimate" if name in memory["estimates"] else "")
        for name in _CLASSES
    ]
    rows.append(("needed", _gib(memory["needed"]), "by the compiler"))
    if memory["usable"] is not None:
        rows.append(("usable", _gib(memory["usable"]), f"of {_gib(memory['device'])}"))
    return rows


def _verdict(figures: Figures) -> str:
    memory = figures["memory"]
    if memory["usable"] is None:
        return "Whether it fits is not known: it depends on the memory of the host."
    share = memory["needed"] / memory["usable"]
    if memory["fits"]:
        return f"It fits: {share:.0%} of what a program can have."
    missing = _gib(memory["needed"] - memory["usable"])
    return (
        f"It does not fit: a device needs {_gib(memory['needed'])} GiB, {missing} GiB more than it "
        "has for a program."
    )


def _flops(figures: Figures) -> str:
    flops = figures["flops"]
    again = flops["executed_per_pair"] / flops["model_per_pair"]
    return (
        f"{flops['model_per_pair'] / 1e9:.2f} GFLOP a pair in training, {again:.0%} of it executed "
        f"(what is computed again counts, the gradient of the images is never formed); "
        f"{flops['per_device'] / 1e12:.2f} TFLOP a device and step, of which the loss "
        f"{flops['loss'] / flops['per_device'] / figures['topology']['devices']:.1%}."
    )


_COLLECTIVE_HEAD = ("collective", "axes", "where", "times", "MiB sent", "ms")


def _collective_rows(figures: Figures) -> list[_Row]:
    rows = []
    for row in figures["collectives"]:
        loops = f", loop of {' x '.join(map(str, row['loops']))}" if row["loops"] else ""
        network = ", over the network" if row["over_network"] else ""
        rows.append(
            (
                row["kind"],
                "+".join(row["axes"]),
                f"{row['place']}{loops}{network}",
                f"{'' if row['exact'] else 'at least '}{row['times']:,}",
                f"{row['sent_bytes'] / 2**20:,.2f}",
                "" if row["seconds"] is None else f"{1e3 * row['seconds']:.2f}",
            )
        )
    return rows


def _time_rows(figures: Figures) -> list[_Row]:
    bounds = figures["roofline"]
    rows = [
        ("step, ms", "step_seconds", 1e3),
        ("samples/s", "samples_per_second", 1),
        ("hours", "hours", 1),
        ("accelerator-hours", "accelerator_hours", 1),
    ]
    return [
        (name, *(f"{factor * value:,.1f}" for value in bounds[key])) for name, key, factor in rows
    ]


def _bound(figures: Figures) -> str:
    bounds = figures["roofline"]
    parts = ", ".join(
        f"{name} {1e3 * bounds[f'{name}_seconds']:.1f} ms"
        for name in ("compute", "memory", "network")
    )
    return f"Of a step: {parts}; {bounds['samples']:,} samples in all. Bound by {bounds['bound']}."


def _remedy_rows(figures: Figures) -> list[_Row]:
    return [
        (" ".join(row["overrides"]), _gib(row["needed"]), "fits" if row["fits"] else "too much")
        for row in figures["remedies"]
    ]


def _largest(figures: Figures) -> str:
    found = figures["largest_batch"]
    if not found["global_batch_size"]:
        return "No batch fits, not even one pair a device: split or shrink the model."
    return (
        f"The largest global batch that fits is {found['global_batch_size']:,} (to within a "
        f"sixteenth, {len(found['tried'])} compiled): {_gib(found['needed'])} of "
        f"{_gib(found['usable'])} GiB a device."
    )


def _gib(size: int | float) -> str:
    return f"{size / 2**30:,.3f}"


def _aligned(head: Sequence[str], rows: Sequence[_Row]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    texts = 3 if len(head) > 3 else 1
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
