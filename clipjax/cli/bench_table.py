"""The table of the benchmarks: what ran on which device, how fast, and which share of its peak."""

from collections.abc import Mapping, Sequence
from typing import Any

# column: (field of a row, how it is written)
COLUMNS = {
    "measured": ("measured", "{}"),
    "program": ("program", "{}"),
    "device": ("device", "{}"),
    "dtype": ("dtype", "{}"),
    "batch": ("batch_size", "{:,}"),
    "arrays": ("leaves", "{:,}"),
    "ms": ("ms", "{:,.2f}"),
    "p90 ms": ("p90_ms", "{:,.2f}"),
    "CPU us": ("cpu_us", "{:,.0f}"),
    "samples/s": ("samples_per_second", "{:,.1f}"),
    "TFLOP/s": ("tflops", "{:,.3f}"),
    "MFU": ("mfu", "{:.1%}"),
    "ratio": ("ratio", "{:.2f}"),
}
_MISSING = "-"


def speed(
    seconds: float, *, batch_size: int, pair_flops: int, devices: int, peak: float | None
) -> dict[str, float | None]:
    """Returns ms, samples per second, TFLOP/s of a device and model FLOPs utilisation.

    Args:
        seconds: of a step.
        batch_size: pairs of a step.
        pair_flops: of training on one pair; recomputation does not count.
        devices: that shared the step.
        peak: FLOP/s of one device in bfloat16, whatever the dtype; None if it is not known.

    >>> speed(0.5, batch_size=4, pair_flops=10**12, devices=2, peak=8e12)
    {'ms': 500.0, 'samples_per_second': 8.0, 'tflops': 4.0, 'mfu': 0.5}
    """
    flops = pair_flops * batch_size / seconds / devices
    return {
        "ms": 1e3 * seconds,
        "samples_per_second": batch_size / seconds,
        "tflops": flops / 1e12,
        "mfu": flops / peak if peak else None,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as text, with the columns that any of them has.

    Args:
        rows: fields by name; None or a missing one is written as a dash.

    >>> print(table([{"device": "1 x cpu", "ms": 2.0}, {"device": "1 x cpu", "ms": None}]))
    device   ms
    1 x cpu  2.00
    1 x cpu     -
    """
    used = {name: how for name, how in COLUMNS.items() if any(how[0] in row for row in rows)}
    lines = [list(used)]
    for row in rows:
        values = [(row.get(field), form) for field, form in used.values()]
        lines.append([_MISSING if v is None else form.format(v) for v, form in values])
    widths = [max(len(line[i]) for line in lines) for i in range(len(used))]
    numeric = [any(isinstance(r.get(f), int | float) for r in rows) for f, _ in used.values()]

    def written(line: list[str], *, header: bool) -> str:
        cells = [
            cell.rjust(width) if right and not header else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(written(line, header=not i) for i, line in enumerate(lines))
