"""Draws the distributions of a data set as one picture."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.stats import Distributions

_COLUMNS = 4
_MOST_BARS = 8
_LOG = ("width", "height", "aspect", "megapixels", "file bytes", "caption characters",
        "caption words", "caption bytes")  # fmt: skip


def draw(distributions: Distributions, path: str | os.PathLike[str], title: str) -> None:
    """Writes the distributions as a PNG: a histogram a quantity, with its median.

    Raises:
        UserError: if matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise UserError(
            "matplotlib: not installed, wanted for the picture of the distributions. "
            "Install it: pip install 'clipjax[plots]'"
        ) from error
    panels: list[tuple[str, Any]] = [*distributions.numbers.items(), *distributions.names.items()]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(
        figsize=(4 * _COLUMNS, 2.9 * rows + 0.6),
        dpi=100,
        layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08),
    )
    FigureCanvasAgg(figure)
    figure.suptitle(_printable(title, 120), fontsize=13)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis, (name, values) in zip(axes, panels, strict=False):
        if isinstance(values, np.ndarray):
            _histogram(axis, name, values)
        else:
            _bars(axis, name, values)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    try:
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: cannot be written ({error.strerror}).") from error


def _histogram(axis: Any, name: str, values: np.ndarray) -> None:
    low, high = np.quantile(values, [0.005, 0.995])
    logarithmic = name in _LOG and low > 0 and high > 4 * low
    if high <= low:
        low, high = (low - 0.5, low + 0.5) if low == 0 else sorted((0.9 * low, 1.1 * low))
    edges = np.geomspace(low, high, 41) if logarithmic else np.linspace(low, high, 41)
    shares = np.histogram(np.clip(values, low, high), edges)[0] / len(values)
    axis.bar(edges[:-1], shares, np.diff(edges), align="edge", color="#4878a8")
    median = float(np.median(values))
    axis.axvline(median, color="#c44e52", linewidth=1.2)
    if logarithmic:
        axis.set_xscale("log")
        axis.set_xticks(_log_ticks(float(low), float(high)))
        axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(lambda value, _: _short(value))
    axis.set_title(f"{_printable(name, 30)}: median {median:,.4g}", fontsize=10)
    axis.tick_params(labelsize=8)
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def _log_ticks(low: float, high: float) -> list[float]:
    """Returns at most seven round numbers in the range, evenly spaced on a logarithmic axis.

    >>> _log_ticks(30.0, 700.0)
    [50.0, 100.0, 200.0, 500.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 7:
            return ticks
    return ticks[:: -(-len(ticks) // 7)]


def _short(value: float) -> str:
    """Returns a number for an axis.

    >>> _short(2e4), _short(2e6), _short(0.25)
    ('20 k', '2 M', '0.25')
    """
    for size, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{name}"
    return f"{value:.4g}"


def _bars(axis: Any, name: str, counts: Mapping[str, int]) -> None:
    most = sorted(counts.items(), key=lambda item: -item[1])
    shown = most[:_MOST_BARS]
    if len(most) > _MOST_BARS:
        shown.append((f"{len(most) - _MOST_BARS} others", sum(n for _, n in most[_MOST_BARS:])))
    total = sum(counts.values())
    places = range(len(shown))
    axis.barh(places, [count / total for _, count in shown], color="#4878a8")
    axis.set_yticks(places, [_printable(label, 14) for label, _ in shown])
    axis.invert_yaxis()
    axis.set_title(_printable(name, 30), fontsize=10)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def _printable(text: str, most: int) -> str:
    """Returns text that the font has, cut to `most` characters; a $ would begin a formula."""
    plain: Sequence[str] = [c if c.isascii() and c.isprintable() else "?" for c in text[:most]]
    return "".join(plain).replace("$", r"\$")
