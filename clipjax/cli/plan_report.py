"""The figures of a plan, as text for a terminal and as a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.core import html

Figures = Mapping[str, Any]
_Row = tuple[str, ...]

_CLASSES = ("parameters", "optimizer", "ema", "teacher", "batch", "activations", "loss", "other")
_TIME_HEAD = ("bounds", "all overlaps", "nothing does")


def plan_text(figures: Figures) -> str:
    """Returns what `clipjax plan` prints.

    Args:
        figures: of `clipjax plan --json`.
    """
    blocks = [_headline(figures), *(f"warning: {line}" for line in figures["warnings"])]
    for stage in figures["stages"]:
        blocks += [
            _stage_line(stage),
            _aligned(("memory of a device", "GiB", ""), _memory_rows(stage)),
            _verdict(stage),
            _flops(stage, figures),
        ]
        if stage["collectives"] is not None:
            blocks.append(_aligned(_COLLECTIVE_HEAD, _collective_rows(stage)))
        if stage["roofline"] is not None:
            blocks += [_aligned(_TIME_HEAD, _time_rows(stage["roofline"])), _bound(stage)]
    if len(figures["stages"]) > 1:
        blocks.append(_whole(figures))
        if figures["total"] is not None:
            blocks.append(_aligned(_TIME_HEAD, _time_rows(figures["total"])))
    if figures["remedies"] is not None:
        blocks.append(_aligned(("what to change", "GiB", ""), _remedy_rows(figures)))
    blocks += [_largest(found) for found in figures["largest_batch"] or ()]
    blocks.append("assumed:\n" + "\n".join(f"- {line}" for line in figures["assumptions"]))
    return "\n\n".join(block for block in blocks if block)


def plan_page(figures: Figures) -> str:
    """Returns the same as one page of HTML.

    Args:
        figures: of `clipjax plan --json`.
    """
    blocks = [
        html.paragraph(_headline(figures)),
        html.bullets(figures["warnings"]) if figures["warnings"] else "",
    ]
    for stage in figures["stages"]:
        blocks += _stage_blocks(stage, figures)
    if len(figures["stages"]) > 1:
        blocks += [html.heading("All stages"), html.paragraph(_whole(figures))]
        if figures["total"] is not None:
            blocks.append(html.table(("", *_TIME_HEAD[1:]), _time_rows(figures["total"])))
    if figures["remedies"] is not None:
        blocks += [
            html.heading("What to change"),
            html.table(("", "GiB", ""), _remedy_rows(figures)),
        ]
    blocks += [html.paragraph(_largest(found)) for found in figures["largest_batch"] or ()]
    blocks += [html.heading("Assumed"), html.bullets(figures["assumptions"])]
    return html.page(f"Plan of {figures['config']} on {figures['topology']['name']}", *blocks)


def _stage_blocks(stage: Figures, figures: Figures) -> list[str]:
    memory = stage["memory"]
    parts = [(name, memory[name]) for name in _CLASSES if memory[name]]
    blocks = [
        html.heading(f"Stage {stage['name']}") if stage["name"] else "",
        html.paragraph(_stage_line(stage)),
        html.heading("Memory of a device"),
        html.bar(parts, memory["usable"] or memory["needed"]),
        html.table(("", "GiB", ""), _memory_rows(stage)),
        html.paragraph(_verdict(stage)),
        html.heading("Arithmetic"),
        html.paragraph(_flops(stage, figures)),
    ]
    if stage["collectives"] is not None:
        blocks += [
            html.heading("What devices say to each other"),
            html.table(_COLLECTIVE_HEAD, _collective_rows(stage)),
        ]
    if stage["roofline"] is not None:
        blocks += [
            html.heading("Time, at best"),
            html.table(("", *_TIME_HEAD[1:]), _time_rows(stage["roofline"])),
            html.paragraph(_bound(stage)),
        ]
    return blocks


def _headline(figures: Figures) -> str:
    mesh = ", ".join(f"{name} {size}" for name, size in figures["mesh"].items() if size > 1)
    quick = ", compiled with the least optimisation" if figures["quick"] else ""
    return (
        f"{figures['config']} {' '.join(figures['overrides'])}".rstrip()
        + f" on {figures['topology']['name']} ({figures['topology']['devices']} devices; mesh: "
        f"{mesh or 'one device'}), remat {figures['remat']}, {figures['micro_batches']} "
        f"micro-batches{quick}."
    )


def _stage_line(stage: Figures) -> str:
    named = f"stage {stage['name']}, " if stage["name"] else ""
    line = (
        f"{named}steps {stage['first_step']:,} to {stage['stop_step']:,}, batch "
        f"{stage['global_batch_size']:,}: traced in {stage['seconds']['lower']:.1f} s, compiled in "
        f"{stage['seconds']['compile']:.1f} s."
    )
    return line[0].upper() + line[1:]


def _whole(figures: Figures) -> str:
    fits = "fits" if figures["fits"] else "does not fit"
    tightest = f"stage {figures['tightest']}" if figures["tightest"] else "the first steps"
    return (
        f"The run over its {len(figures['stages'])} stages {fits}; the most memory is needed by "
        f"{tightest}."
    )


def _memory_rows(stage: Figures) -> list[_Row]:
    memory = stage["memory"]
    rows = [
        (name, _gib(memory[name]), "estimate" if name in memory["estimates"] else "")
        for name in _CLASSES
        if memory[name] or name not in ("ema", "teacher")
    ]
    rows.append(("needed", _gib(memory["needed"]), "by the compiler"))
    if memory["usable"] is not None:
        rows.append(("usable", _gib(memory["usable"]), f"of {_gib(memory['device'])}"))
    return rows


def _verdict(stage: Figures) -> str:
    memory = stage["memory"]
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


def _flops(stage: Figures, figures: Figures) -> str:
    flops = stage["flops"]
    asked = flops["model_per_pair"] + flops["teacher_per_pair"]
    teacher = ""
    if flops["teacher_per_pair"]:
        teacher = f" and {flops['teacher_per_pair'] / 1e9:.2f} of the teacher"
    return (
        f"{flops['model_per_pair'] / 1e9:.2f} GFLOP a pair in training{teacher}, "
        f"{flops['executed_per_pair'] / asked:.0%} of it executed "
        f"(what is computed again counts, the gradient of the images is never formed); "
        f"{flops['per_device'] / 1e12:.2f} TFLOP a device and step, of which the loss "
        f"{flops['loss'] / flops['per_device'] / figures['topology']['devices']:.1%}."
    )


_COLLECTIVE_HEAD = ("collective", "axes", "where", "times", "MiB sent", "ms")


def _collective_rows(stage: Figures) -> list[_Row]:
    rows = []
    for row in stage["collectives"]:
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


def _time_rows(bounds: Figures) -> list[_Row]:
    rows = [
        ("step, ms", "step_seconds", 1e3),
        ("samples/s", "samples_per_second", 1),
        ("hours", "hours", 1),
        ("accelerator-hours", "accelerator_hours", 1),
    ]
    return [
        (name, *(f"{factor * value:,.1f}" for value in bounds[key]))
        for name, key, factor in rows
        if key in bounds
    ]


def _bound(stage: Figures) -> str:
    bounds = stage["roofline"]
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


def _largest(found: Figures) -> str:
    of_stage = f" of stage {found['stage']}" if found["stage"] else ""
    if not found["global_batch_size"]:
        return f"No batch{of_stage} fits, not even one pair a device: split or shrink the model."
    return (
        f"The largest global batch{of_stage} that fits is {found['global_batch_size']:,} (to "
        f"within a sixteenth, {len(found['tried'])} compiled): {_gib(found['needed'])} of "
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
