"""The top of the page on units: what was found, whether the controls hold, and how it was done."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.core import html
from clipjax.interpret.report_figures import count, figure, meter, probability

Findings = Mapping[str, Any]
Space = Mapping[str, Any]

STYLE = """\
.first{font-size:1.15rem;margin:.4rem 0}
.compact th{white-space:normal;vertical-align:bottom}
.compact td:first-child{font-weight:600}.compact td small{font-weight:400}
@media(max-width:40rem){.compact{font-size:13px}.compact th,.compact td{padding:.2rem .25rem}}
"""

_CONTROL_HEAD = (
    "",
    "pairs",
    "hold again",
    "strict units",
    "across facets",
    "of found",
    "a unit",
    "AP",
)
_SPACE_HEAD = (
    "space",
    "controls",
    "units",
    "multimodal",
    "strict",
    "pairs",
    "hold again",
    "concepts",
    "BH",
    "BY",
    "across facets",
)
ROTATED = "rotated"
_BREAK = html.Html("<br>")
_PERMUTED = "unit permutation"
_COUNTS = ("pairs", "replicated_pairs", "strict_units")
_MEANING = {
    "untrained": "the same architecture with fresh weights",
    "shuffled": "trained as long on captions that were dealt out at random",
    "no-words": "trained without pictures of words",
    ROTATED: "the same activations in a basis drawn at random; every unit then holds a little of "
    "everything, so that pairs say nothing: look across facets",
}


def best_space(findings: Findings) -> Space:
    """Returns the space that the page begins with."""
    best = findings["summary"]["best_space"]
    return next(one for one in findings["spaces"] if one["path"] == best)


def headline(findings: Findings) -> list[html.Html]:
    """Returns what was found in the best space, with all controls beside it."""
    space = best_space(findings)
    found = html.paragraph(
        count(space["multimodal_units"]),
        " of ",
        count(space["units"]),
        f" units of {space['path']} answer to one and the same concept in "
        f"{_listed(space['facets'])}.",
    )
    return [
        html.box(
            f'<div class="first">{found}</div>',
            verdict(space),
            html.paragraph(*_counted(space, findings["settings"])),
            tone=_tone(space),
        ),
        *controls_of(space),
    ]


def verdict(space: Space) -> html.Html:
    """Returns in one line whether the controls of a space hold."""
    compared, failed = _models(space), _failed(space)
    if failed:
        first = [
            html.badge("Controls fail", "bad"),
            f"{_listed(failed)}: too much of what was found is there without the cause that is "
            "claimed for it. ",
        ]
    elif compared:
        first = [
            html.badge("Controls hold", "good"),
            f"{_listed(compared)}: the same tests find next to nothing there. ",
        ]
    else:
        first = [
            html.badge("No control model", "bad"),
            "Counts alone prove little. Scan one: clipjax neurons scan --control untrained. ",
        ]
    rotated = space["controls"].get(ROTATED)
    if rotated is None:
        return html.paragraph(*first)
    if rotated["failed"]:
        words = "a random basis means as much: these are directions, and no units of their own."
        return html.paragraph(*first, html.badge("Rotation equal", "bad"), words)
    words = "what drives a unit means one thing more than in a random basis."
    return html.paragraph(*first, html.badge("Rotation below", "good"), words)


def controls_of(space: Space) -> list[html.Html]:
    """Returns the counts of a space with those of every control below them."""
    rows = {"this model": space, **space["controls"]}
    most = {key: max((one[key] or 0) for one in rows.values()) for key in _COUNTS}
    table = html.table(
        _CONTROL_HEAD,
        [
            [
                name if one is space else html.inline(name, _BREAK, _outcome(name, one)),
                *[
                    html.inline(count(one[key]), _BREAK, meter(one[key], most[key]))
                    for key in _COUNTS
                ],
                figure(_ratio(one), ".2f"),
                figure(one.get("cross_modal_found"), ".2f"),
                figure(one.get("concepts_per_unit"), ".2f"),
                figure(one.get("average_precision"), ".2f"),
            ]
            for name, one in rows.items()
        ],
    )
    meanings = [
        f"{name}: {text}."
        for name in space["controls"]
        for key, text in _MEANING.items()
        if name.startswith(key)
    ]
    said = [html.paragraph(html.small(" ".join(meanings)))] if meanings else []
    return [html.Html(f'<div class="compact">{table}</div>'), *said, *_permutation(space)]


def spaces_table(findings: Findings) -> list[html.Html]:
    """Returns all spaces, and the controls of each."""
    rows = [
        [
            one["path"],
            _all_outcomes(one),
            *[
                count(one.get(key))
                for key in ("units", "multimodal_units", "strict_units", "pairs")
            ],
            count(one.get("replicated_pairs")),
            count(one.get("concepts")),
            count((one.get("counts") or {}).get("bh")),
            count((one.get("counts") or {}).get("by")),
            figure(_ratio(one), ".2f"),
        ]
        for one in findings["spaces"]
    ]
    best = best_space(findings)
    return [
        html.heading("Every space of units"),
        html.Html(f'<div class="compact">{html.table(_SPACE_HEAD, rows)}</div>'),
        *[
            html.details(
                [f"Controls of {one['path']} ", _all_outcomes(one)],
                verdict(one),
                *controls_of(one),
            )
            for one in findings["spaces"]
            if one is not best
        ],
    ]


def proofs(findings: Findings) -> list[html.Html]:
    """Returns what the numbers prove and what not."""
    return [
        html.heading("What this proves, and what not"),
        html.Html(f'<div class="compact">{html.bullets(findings["proves"])}</div>'),
    ]


def methods(findings: Findings) -> list[html.Html]:
    """Returns how the numbers came about, with all settings."""
    settings, data, model = findings["settings"], findings["data"], findings["model"]
    facets = [
        [
            one["name"] + (" (control)" if one.get("control") else ""),
            one["tower"],
            count(one["stimuli"]),
            count(one["samples"]),
        ]
        for one in data["facets"]
    ]
    concepts = [
        [one["name"], *[count(one["positives"].get(facet["name"])) for facet in data["facets"]]]
        for one in data["concepts"]
    ]
    untested = data.get("untested") or []
    return [
        html.heading("How it was done"),
        html.paragraph(
            f"Model {model['spec']}, step ",
            count(model.get("step")),
            f", identity {model['identity']}. Stimuli: {data['stimuli']}. Views of a stimulus "
            "are averaged first, so that a thing counts once.",
        ),
        html.table(("facet", "tower", "stimuli", "samples"), facets),
        html.paragraph(
            "Activations are ranked within each facet, never across facets: the AUROC says how "
            "often a stimulus with the concept drives the unit more than one without. Its p value "
            "is the larger of a plain rank test and of one within strata of what could explain "
            "the unit instead (luminance, length of a text). A unit answers to a concept in all "
            "facets if the largest p of the facets says so (a conjunction; false discoveries are "
            "held by AdaFilter, Wang et al. 2022, with Benjamini-Hochberg and Benjamini-Yekutieli "
            "beside it) and if the smallest AUROC is above a floor. Pairs that were found on half "
            "of the stimuli are tested again on the other half. Intervals are DeLong's (1988)."
        ),
        html.paragraph(
            "“Across facets” is cross-modal monosemanticity over chance: whether what drives a "
            "unit in one facet means the same as what drives it in another; it is 1 for a basis "
            "that means nothing. “Of found” is that of the units with pairs, “a unit” how many "
            "concepts each of those has, AP the average precision of pairs in their worst facet. "
            "Rotated bases can have many pairs, since every unit then holds a little of "
            "everything: read pairs beside it."
        ),
        html.details(
            ["All settings"],
            html.table(("setting", "value"), [[k, _setting(v)] for k, v in settings.items()]),
        ),
        html.details(
            ["Concepts and their stimuli"],
            html.table(("concept", *[one["name"] for one in data["facets"]]), concepts),
            *([html.paragraph("Not tested:"), html.bullets(untested)] if untested else []),
        ),
    ]


def _permutation(space: Space) -> list[html.Html]:
    found = space.get("permutation")
    if not found:
        return []
    return [
        html.paragraph(
            f"Unit permutation: if the units of {found['facet']} were named at random, ",
            figure(found["null_mean"], ".3g"),
            " pairs would be there on average; there are ",
            count(found["observed"]),
            " (",
            figure(found["enrichment"], ".2f"),
            " times as many, p = ",
            probability(found["p"]),
            ") ",
            _outcome(_PERMUTED, found),
        )
    ]


def _failed(space: Space) -> list[str]:
    """Returns the controls that make finds doubtful; a rotation makes none false."""
    failed = [name for name in _models(space) if space["controls"][name]["failed"]]
    shuffled = space.get("permutation")
    return failed + [_PERMUTED] * bool(shuffled and shuffled["failed"])


def _outcome(name: str, control: Mapping[str, Any]) -> html.Html:
    if name == ROTATED:
        return html.badge("equal", "bad") if control["failed"] else html.badge("below", "good")
    return html.badge("fails", "bad") if control["failed"] else html.badge("holds", "good")


def _counted(space: Space, settings: Mapping[str, Any]) -> list[Any]:
    """Returns the counts behind the first sentence, in sentences."""
    parts: list[Any] = ["They answer to ", *_things(space["concepts"], "concept"), ": "]
    parts += [*_things(space["pairs"], "pair"), " of a unit and a concept. "]
    if space["replicated_pairs"] is None:
        parts.append("Nothing was replicated, since the scan kept no activations. ")
    else:
        parts += ["Found on half of the stimuli and again on the other half: "]
        parts += [*_things(space["replicated_pairs"], "pair"), ", of "]
        parts += [*_things(space["replicated_units"], "unit"), " and "]
        parts += [*_things(space["replicated_concepts"], "concept"), ". "]
    parts += ["Strict, with every AUROC ", figure(settings["strict"], "g"), " or more: "]
    parts += [*_things(space["strict_units"], "unit"), ". "]
    floor_only = space.get("floor_only_facets")
    if floor_only:
        parts += [f"In {_listed(floor_only)} there are too few stimuli for a test: AUROCs must "]
        parts += ["reach ", figure(settings["floor"], "g"), " there, and no p value says how "]
        parts.append("sure that is.")
    return parts


def _things(number: html.Number, name: str) -> list[Any]:
    return [count(number), f" {name}" if number == 1 else f" {name}s"]


def _models(space: Space) -> list[str]:
    return [name for name in space["controls"] if name != ROTATED]


def _tone(space: Space) -> str:
    return "good" if _models(space) and not _failed(space) else "bad"


def _all_outcomes(space: Space) -> html.Html:
    if not _models(space) and not _failed(space):
        return html.badge("none", "bad")
    return _outcome("", {"failed": bool(_failed(space))})


def _ratio(counts: Mapping[str, Any]) -> html.Number | None:
    ratio = counts.get("cross_modal_ratio")
    return ratio.get("mean") if isinstance(ratio, Mapping) else ratio


def _setting(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float):
        return figure(value, "g")
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and value else str(value)


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
