"""Numbers and small drawings of the page on units: histograms, scatter, heat, curves, meters."""

import html as escaping
import math
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.core import html

Series = Sequence[tuple[html.Number, html.Number]]
Point = tuple[html.Number, html.Number, str, str, bool]

MISSING = "n/a"
_HIST_WIDTH, _HIST_HEIGHT, _THINNEST = 240, 44, 1.5
_SIDE, _LEFT, _TOP, _BELOW = 260, 48, 8, 36
_CURVE_WIDTH, _CURVE_HEIGHT = 260, 110

STYLE = """\
.heat{display:block;padding:0 .3rem;border-radius:2px}
.meter{display:inline-block;height:.5rem;background:var(--mark);vertical-align:top}
.track{display:inline-block;width:4rem;max-width:15vw;text-align:left;background:var(--soft)}
.track{line-height:.5rem;height:.5rem}
.dot{fill:var(--mark);opacity:.6}.dot.alone{fill:#c77b30}.fall{fill:none;stroke:var(--mark)}
.hits{fill:#d1571f}.everyone{fill:var(--mark);opacity:.35}
"""


def figure(value: html.Number | None, form: str = ".3f") -> html.Html:
    """Returns a number of neurons.json, rounded, with all of its digits for programs.

    Args:
        value: None or not finite where there is none.
        form: how it is shown, as in `format`.
    """
    if value is None or not math.isfinite(value):
        return html.small(MISSING)
    return html.number(value, format(value, form))


def count(value: html.Number | None) -> html.Html:
    """Returns a number of things, or a mean of such numbers."""
    return figure(value, "," if isinstance(value, int) else ",.1f")


def probability(value: html.Number | None) -> html.Html:
    """Returns a p or q value with two digits that count."""
    return figure(value, ".2g")


def meter(value: html.Number | None, most: html.Number) -> html.Html:
    """Returns a bar that is as long as a value is of the largest."""
    share = 0.0 if value is None or most <= 0 else min(max(value / most, 0.0), 1.0)
    width = max(100 * share, 2.0 if share else 0.0)
    return html.Html(
        f'<span class="track"><span class="meter" style="width:{width:.1f}%"></span></span>'
    )


def heat(value: html.Number | None) -> html.Html:
    """Returns an AUROC on a ground that is the bluer the farther it is above chance."""
    if value is None or not math.isfinite(value):
        return html.small("")
    depth = min(max(2 * value - 1, 0.0), 1.0)
    return html.Html(
        f'<span class="heat" style="background:rgba(42,111,187,{0.75 * depth:.2f})">'
        f"{figure(value, '.2f')}</span>"
    )


def histogram(fields: Mapping[str, Any], name: str) -> html.Html:
    """Returns a histogram of activations, those of stimuli with the concept over those of all.

    Heights go with the square root: a handful of positives is seen beside a thousand zeros.

    Args:
        fields: `edges` of bins, ascending; `counts` of all stimuli and `positives` of those with
            the concept, one a bin.
        name: what it shows, in words.
    """
    counts, positives = fields["counts"], fields["positives"]
    edges = _outer(fields["edges"], len(counts))
    low, width = edges[0], (edges[-1] - edges[0]) or 1.0
    most = max([1, *counts])

    def path(heights: Sequence[int]) -> str:
        parts = []
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            if not height:
                continue
            wide = max(_HIST_WIDTH * (right - left) / width - 0.5, _THINNEST)
            x = min(_HIST_WIDTH * (left - low) / width, _HIST_WIDTH - _THINNEST)
            tall = max(_HIST_HEIGHT * math.sqrt(height / most), 1.0)
            parts.append(f"M{x:.1f} {_HIST_HEIGHT}h{wide:.1f}v-{tall:.1f}h-{wide:.1f}z")
        return "".join(parts)

    return html.Html(
        f'<svg class="hist" viewBox="0 0 {_HIST_WIDTH} {_HIST_HEIGHT + 14}" role="img" '
        f'aria-label="{escaping.escape(name)}" data-counts="{_plain(counts)}" '
        f'data-positives="{_plain(positives)}">'
        f'<path class="everyone" d="{path(counts)}"/><path class="hits" d="{path(positives)}"/>'
        f'<line class="line" x1="0" x2="{_HIST_WIDTH}" y1="{_HIST_HEIGHT}" y2="{_HIST_HEIGHT}"/>'
        f'<text x="0" y="{_HIST_HEIGHT + 12}">{edges[0]:.3g}</text>'
        f'<text x="{_HIST_WIDTH}" y="{_HIST_HEIGHT + 12}" text-anchor="end">{edges[-1]:.3g}</text>'
        "</svg>"
    )


def scatter(points: Sequence[Point], x_label: str, y_label: str, floor: html.Number) -> html.Html:
    """Returns AUROCs of two facets, one point a unit and concept.

    Args:
        points: each x, y, a text that is shown when it is pointed at, the name of a block that it
            leads to or "", and whether it holds in all facets.
        x_label: name of the facet to the right.
        y_label: name of the facet upwards.
        floor: of an effect, drawn as dashed lines.
    """
    least = min([0.5, *(value for x, y, *_ in points for value in (x, y))])
    low = math.floor(10 * least) / 10

    def across(value: html.Number) -> float:
        return _LEFT + _SIDE * (value - low) / (1 - low)

    def up(value: html.Number) -> float:
        return _TOP + _SIDE * (1 - value) / (1 - low)

    dots = []
    for x, y, text, target, together in points:
        dot = (
            f'<circle class="dot{"" if together else " alone"}" cx="{across(x):.1f}" '
            f'cy="{up(y):.1f}" r="4" data-x="{x!r}" data-y="{y!r}">'
            f"<title>{escaping.escape(text)}</title></circle>"
        )
        leads = f'<a href="#{escaping.escape(target)}">{dot}</a>' if target else dot
        dots.append(leads)
    bottom, right = _TOP + _SIDE, _LEFT + _SIDE
    ticks = "".join(
        f'<text x="{across(at):.1f}" y="{bottom + 14}" text-anchor="middle">{at:g}</text>'
        f'<text x="{_LEFT - 4}" y="{up(at) + 4:.1f}" text-anchor="end">{at:g}</text>'
        for at in dict.fromkeys((low, 0.5, floor, 1.0))
    )
    fx, fy = across(floor), up(floor)
    return html.Html(
        f'<svg width="{right + 12}" viewBox="0 0 {right + 12} {bottom + _BELOW}" role="img" '
        f'aria-label="{escaping.escape(f"AUROC in {x_label} and in {y_label}")}">'
        f'<line class="line" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        f'<line class="line" x1="{_LEFT}" x2="{_LEFT}" y1="{_TOP}" y2="{bottom}"/>'
        f'<line class="dash" x1="{fx:.1f}" x2="{fx:.1f}" y1="{_TOP}" y2="{bottom}"/>'
        f'<line class="dash" x1="{_LEFT}" x2="{right}" y1="{fy:.1f}" y2="{fy:.1f}"/>'
        f"{''.join(dots)}{ticks}"
        f'<text x="{_LEFT + _SIDE / 2}" y="{bottom + 30}" text-anchor="middle">'
        f"{escaping.escape(x_label)}</text>"
        f'<text transform="rotate(-90 10 {_TOP + _SIDE / 2})" x="10" y="{_TOP + _SIDE / 2}" '
        f'text-anchor="middle">{escaping.escape(y_label)}</text></svg>'
    )


def curve(points: Series, name: str) -> html.Html:
    """Returns a value over the steps of a run.

    Args:
        points: steps and values, ascending by step; at least one.
        name: of the value.
    """
    steps, values = zip(*points, strict=True)
    low, high = min(0.0, *values), max(values)
    wide, tall = (steps[-1] - steps[0]) or 1, (high - low) or 1.0
    places = [
        (
            6 + (_CURVE_WIDTH - 12) * (step - steps[0]) / wide,
            6 + (_CURVE_HEIGHT - 12) * (1 - (value - low) / tall),
        )
        for step, value in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3" data-step="{step!r}" '
        f'data-value="{value!r}"><title>step {step:,}: {value:.4g}</title></circle>'
        for (x, y), (step, value) in zip(places, points, strict=True)
    )
    bottom = _CURVE_HEIGHT
    return html.Html(
        f'<svg width="{_CURVE_WIDTH}" viewBox="0 0 {_CURVE_WIDTH} {bottom + 16}" role="img" '
        f'aria-label="{escaping.escape(name)}"><polyline class="fall" points="{line}"/>{dots}'
        f'<line class="line" x1="0" x2="{_CURVE_WIDTH}" y1="{bottom}" y2="{bottom}"/>'
        f'<text x="0" y="{bottom + 13}">step {steps[0]:,}</text>'
        f'<text x="{_CURVE_WIDTH}" y="{bottom + 13}" text-anchor="end">{steps[-1]:,}</text></svg>'
    )


def _outer(edges: Sequence[html.Number], bins: int) -> list[html.Number]:
    """Returns edges with ends: a summary has those between bins only."""
    if len(edges) == bins + 1:
        return list(edges)
    if len(edges) != bins - 1:
        raise ValueError(f"{len(edges)} edges of {bins} bins")
    step = (edges[-1] - edges[0]) / max(len(edges) - 1, 1) or 1.0
    return [edges[0] - step, *edges, edges[-1] + step]


def _plain(numbers: Sequence[html.Number]) -> str:
    return " ".join(repr(number) for number in numbers)
