"""Charts of the page on units: AUROCs of two facets, concepts by facet, kinds, and training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipjax.core import html
from clipjax.interpret.report_figures import count, curve, figure, heat, scatter

Findings = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

_MOST_POINTS, _MOST_CONCEPTS = 1500, 100
_KINDS = (
    "multimodal-same",
    "multimodal-partial",
    "multimodal-divergent",
    "unimodal",
    "modality-detector",
    "none",
    "dead",
)
_PREFIX = "neurons/"


def scatter_panel(findings: Findings, names: Mapping[str, str]) -> list[html.Html]:
    """Returns AUROCs of the first two facets that all pairs have.

    Args:
        findings: of neurons.json.
        names: of blocks with cards, by unit.
    """
    pairs = [
        (unit, concept) for unit in findings["units"] for concept in unit["concepts"][:_MOST_POINTS]
    ]
    facets = _two_facets(findings, pairs)
    if facets is None:
        return []
    across, up = facets
    points = [
        (
            concept["auroc"][across],
            concept["auroc"][up],
            f"{concept['name']} {unit['unit']}",
            names.get(unit["unit"], ""),
            unit["kind"] == "multimodal-same",
        )
        for unit, concept in pairs
        if _has(concept, across) and _has(concept, up)
    ][:_MOST_POINTS]
    if not points:
        return []
    floor = findings["settings"].get("floor", 0.75)
    return [
        html.heading("The same concept in two facets"),
        html.paragraph(
            "Each point is a unit and a concept; right and above the dashed lines both AUROCs "
            "pass the floor. Blue: the unit holds in all required facets; orange: in some. A point "
            "leads to the card of its unit."
        ),
        scatter(points, across, up, floor),
    ]


def heat_panel(findings: Findings) -> list[html.Html]:
    """Returns the best AUROC of any listed unit for each concept and facet."""
    facets = [one["name"] for one in findings["data"]["facets"]]
    best: dict[str, dict[str, html.Number]] = {}
    for unit in findings["units"]:
        for concept in unit["concepts"]:
            row = best.setdefault(concept["name"], {})
            for facet, value in concept["auroc"].items():
                if value is not None and value >= row.get(facet, -math.inf):
                    row[facet] = value
    if not best:
        return []
    order = sorted(best, key=lambda name: (-min(best[name].values(), default=0), name))
    used = [facet for facet in facets if any(facet in row for row in best.values())]
    rows = [
        [name, *[heat(best[name].get(facet)) for facet in used]] for name in order[:_MOST_CONCEPTS]
    ]
    return [
        html.heading("Concepts by facet"),
        html.paragraph(
            "The best AUROC of any unit that answers to the concept. Units of one row may differ."
        ),
        html.table(("concept", *used), rows),
    ]


def kinds_panel(findings: Findings) -> list[html.Html]:
    """Returns the kinds of units of each space."""
    blocks = []
    for space in findings["spaces"]:
        # Those that are not there too: each kind keeps its colour.
        kinds = dict.fromkeys(_KINDS, 0) | dict(space["kinds"])
        shown: list[Any] = [f"{space['path']}: "]
        for name, number in [one for one in kinds.items() if one[1]]:
            shown += [f"{name.replace('-', ' ')} ", count(number), "; "]
        blocks += [
            html.paragraph(*shown),
            html.bar([(name.replace("-", " "), n) for name, n in kinds.items()], space["units"]),
        ]
    return [html.heading("Kinds of units"), *blocks] if blocks else []


def emergence_panel(rows: Rows) -> list[html.Html]:
    """Returns curves over the steps of a run.

    Args:
        rows: of a run's metrics, each with `step`; those named neurons/... are drawn.
    """
    series: dict[str, list[tuple[html.Number, html.Number]]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(_PREFIX) and _finite(value) and _finite(row.get("step")):
                series.setdefault(name.removeprefix(_PREFIX), []).append((row["step"], value))
    cells = []
    for name, points in series.items():
        ordered = sorted(points)
        cells.append((curve(ordered, name), [f"{name}: ", figure(ordered[-1][1], ".4g")]))
    if not cells:
        return []
    return [html.heading("While it was trained"), html.grid(cells, wide=True)]


def _two_facets(findings: Findings, pairs: Iterable[tuple[Any, Any]]) -> tuple[str, str] | None:
    ordered = [one["name"] for one in findings["data"]["facets"] if not one.get("control")]
    having = {facet: 0 for facet in ordered}
    for _, concept in pairs:
        for facet in ordered:
            having[facet] += _has(concept, facet)
    # The first facet against the last: most often a picture against words.
    most = max(having.values(), default=0)
    common = [facet for facet in ordered if having[facet] == most and most]
    return (common[0], common[-1]) if len(common) > 1 else None


def _has(concept: Mapping[str, Any], facet: str) -> bool:
    return _finite(concept["auroc"].get(facet))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
