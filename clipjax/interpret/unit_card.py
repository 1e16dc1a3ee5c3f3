"""All that a page says of one unit: its concepts, what drives it in each facet, and what warns."""

import base64
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clipjax.core import html
from clipjax.interpret.report_figures import count, figure, histogram, probability
from clipjax.interpret.report_pictures import SharedPictures

Unit = Mapping[str, Any]
SoundOf = Callable[[str, int], bytes | None]

TOP, BOTTOM, CONCEPTS, NEIGHBOURS = 8, 4, 4, 6
LONGEST_TEXT = 160
MOST_SOUND = 20_000
_SOUNDS = {b"RIFF": "wav", b"OggS": "ogg", b"fLaC": "flac", b"ID3": "mpeg", b"\xff\xfb": "mpeg"}

STYLE = """\
.unit summary{line-height:1.6}.unit details details{border:0}
.unit details details summary{font-weight:400}
.glance .shared{display:inline-block;width:28px;height:28px;margin-right:.2rem}
.glance .shared{vertical-align:middle;border-radius:3px}details[open]>summary>.glance{display:none}
.drives{display:flex;flex-wrap:wrap;gap:.3rem 1.5rem;align-items:start}
.unit .at{font-weight:400;font-size:12px;overflow-wrap:anywhere}
.facet{border-top:1px solid var(--line);margin-top:.6rem;padding-top:.3rem}
.facet h4{margin:0 0 .2rem;font-size:14px}
.strip{display:grid;flex:0 1 35rem;grid-template-columns:repeat(8,minmax(0,64px));gap:.3rem}
.strip figure{margin:0;font-size:11px;text-align:center}
.strip .shared{width:100%;aspect-ratio:1;border-radius:3px}
.strip .hit .shared{box-shadow:0 0 0 2px var(--good)}.strip .shared{margin-bottom:3px}
.hit figcaption,.says .hit{color:var(--good)}.hit figcaption::after{content:" ✓"}
.says .hit::after{content:" ✓"}
.says{flex:1 1 18rem;margin:.2rem 0;padding:0;list-style:none;font-size:13px}
.says li{margin:.15rem 0}.says span{display:inline-block;min-width:4rem;margin-right:.4rem}
.hist{width:15rem}
audio{height:2rem;max-width:100%}
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardContext:
    """What cards share.

    Attributes:
        pictures: of the page.
        words: that stand for a concept besides its name, by its id.
        names: of blocks with cards, by unit.
        facets: names, in the order in which they are shown.
        sound_of: the file of a row of a facet that is heard; None where there is none.
    """

    pictures: SharedPictures
    words: Mapping[str, Sequence[str]]
    names: Mapping[str, str]
    facets: Sequence[str]
    sound_of: SoundOf | None = None


def unit_card(unit: Unit, neighbours: Sequence[Unit], context: CardContext, *, opened: bool) -> str:
    """Returns the card of a unit.

    Args:
        unit: of neurons.json.
        neighbours: units with the same concepts that have cards too, the nearest first.
        context: what cards share.
        opened: whether it is seen at once.
    """
    concepts = unit["concepts"]
    words = {word for one in concepts for word in words_of_concept(one, context.words)}
    blocks = [
        *[_facet(unit, facet, words, context) for facet in _shown(unit, context.facets)],
        '<div class="facet"></div>',
        *[_evidence(one, context.facets) for one in concepts[:1]],
        *_further(concepts[1:], context.facets),
        *_about(unit, words),
        *_least(unit, words, context),
        *_near(neighbours, context.names),
    ]
    summary = _summary(unit, context)
    card = html.details(summary, *blocks, name=context.names[unit["unit"]], opened=opened)
    return f'<div class="unit">{card}</div>'


def title_of(unit: Unit) -> str:
    """Returns the names of a unit's concepts, or what it is called without any."""
    names = [one["name"] for one in unit["concepts"]]
    return ", ".join(names[:CONCEPTS]) or unit.get("label") or unit["kind"]


def words_of_concept(concept: Mapping[str, Any], words: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the words that stand for a concept of a unit, its name first."""
    return [concept["name"], *words.get(concept["concept"], ())]


def first_pictures(
    unit: Unit, context: CardContext, *, importance: int = 0
) -> list[tuple[str, html.Html]]:
    """Returns the picture that drives a unit most, of each facet that has pictures."""
    found = []
    for facet in _shown(unit, context.facets):
        for one in unit["top"][facet][:1]:
            words = f"{facet}: {one['text'][:LONGEST_TEXT]}"
            place = context.pictures.place(facet, one["row"], words, importance=importance)
            if place is not None:
                found.append((facet, place))
    return found


def _summary(unit: Unit, context: CardContext) -> list[Any]:
    glance = "".join(place for _, place in first_pictures(unit, context))
    parts: list[Any] = [html.Html(f'<span class="glance">{glance}</span>'), f"{title_of(unit)} "]
    parts.append(html.Html(f'<span class="at">{html.small(unit["unit"])}</span> '))
    if unit["concepts"]:
        parts += [html.small("AUROC at least "), figure(unit["concepts"][0]["effect"], ".2f"), " "]
    tone = "good" if unit["kind"] == "multimodal-same" else ""
    parts.append(html.badge(unit["kind"].replace("-", " "), tone))
    if any(one.get("replicated") for one in unit["concepts"]):
        parts.append(html.badge("replicated", "good"))
    return [*parts, *(html.badge(text, "bad") for text in unit.get("badges", ()))]


def _evidence(concept: Mapping[str, Any], facets: Sequence[str]) -> html.Html:
    rows = []
    for facet in [name for name in facets if name in concept["auroc"]]:
        ends = (concept.get("interval") or {}).get(facet) or (None, None)
        value = concept["auroc"][facet]
        drawn = ""
        low, high = ends
        if value is not None and low is not None and high is not None:
            drawn = html.interval(value, low, high, 0.5, f"AUROC in {facet}")
        rows.append(
            [
                facet,
                count((concept.get("positives") or {}).get(facet)),
                figure(value),
                drawn,
                html.inline(figure(low), "-", figure(high)) if drawn else figure(None),
                *[
                    show((concept.get(key) or {}).get(facet))
                    for key, show in (
                        ("p", probability),
                        ("p_stratified", probability),
                        ("ap", figure),
                        ("iou", figure),
                        ("mad", figure),
                    )
                ],
            ]
        )
    for facet, value in (concept.get("control_auroc") or {}).items():
        rows.append([f"{facet} (control)", "", figure(value)])
    head = ("facet", "positives", "AUROC", "", "95 %", "p", "p, strata", "AP", "IoU", "MAD")
    return html.Html(f"{html.paragraph(*_verdict(concept))}{html.table(head, rows)}")


def _verdict(concept: Mapping[str, Any]) -> list[Any]:
    parts: list[Any] = [html.inline(html.Html("<b>"), concept["name"], html.Html("</b>"), ": q ")]
    parts += [probability(concept.get("q")), " (BH ", probability(concept.get("q_bh")), ", BY "]
    parts += [probability(concept.get("q_by")), "), weakest facet ", figure(concept.get("effect"))]
    parts += [", invariance ", figure(concept.get("invariance"), ".2f"), ". "]
    if concept.get("strict"):
        parts.append(html.badge("strict", "good"))
    if not concept.get("found", True):
        where = ", ".join(concept.get("facets") or ()) or "no facet"
        return [*parts, html.badge(f"in {where} only")]
    replicated = concept.get("replicated")
    if replicated is None:
        return [*parts, html.badge("nothing was kept to replicate it with")]
    if replicated:
        return [*parts, html.badge("found and confirmed on halves", "good")]
    return [*parts, html.badge("not replicated", "bad")]


def _further(concepts: Sequence[Mapping[str, Any]], facets: Sequence[str]) -> list[html.Html]:
    if not concepts:
        return []
    said: list[Any] = ["Also "]
    for one in concepts[: 4 * CONCEPTS]:
        said += [f"{one['name']} ", figure(one.get("effect"), ".2f"), "; "]
    return [html.details(said, *[_evidence(one, facets) for one in concepts[: CONCEPTS - 1]])]


def _about(unit: Unit, concept_words: set[str]) -> list[html.Html]:
    parts: list[Any] = []
    for key, name in (
        ("monosemanticity", "monosemanticity"),
        ("cross_modal_ratio", "across facets, over chance"),
        ("modality_score", "modality score"),
    ):
        if unit.get(key) is not None:
            parts += [f"{name} ", figure(unit[key], ".2f"), "; "]
    if unit.get("detects"):
        parts.append(f"tells apart the facet {', '.join(unit['detects'])}; ")
    parts.append(f"label: {unit.get('label') or 'unlabelled'}. ")
    words = unit.get("words") or ()
    if words:
        said = html.marked(", ".join(words), concept_words)
        parts.append(html.Html(f'Words of what drives it: <span class="words">{said}</span>.'))
    return [html.paragraph(*parts)]


def _shown(unit: Unit, facets: Sequence[str]) -> list[str]:
    return [facet for facet in facets if facet in unit["top"]]


def _facet(unit: Unit, facet: str, words: set[str], context: CardContext) -> html.Html:
    blocks = [_exemplars(unit["top"][facet][:TOP], facet, words, context)]
    if context.sound_of is not None and unit["top"][facet]:
        blocks.append(_sound(context.sound_of(facet, unit["top"][facet][0]["row"]), facet))
    fields = (unit.get("histogram") or {}).get(facet)
    if fields:
        blocks.append(histogram(fields, f"activations of {unit['unit']} in {facet}"))
    return html.Html(
        f'<div class="facet top">{html.heading(facet, 4)}'
        f'<div class="drives">{"".join(map(str, blocks))}</div></div>'
    )


def _exemplars(
    exemplars: Sequence[Mapping[str, Any]],
    facet: str,
    words: set[str],
    context: CardContext,
    *,
    first: int = 0,
) -> str:
    seen, said = [], []
    for number, one in enumerate(exemplars, first):
        text = one["text"]
        text = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
        hit = ' class="hit"' if one.get("positive") else ""
        value = figure(one["value"], ".3g")
        place = context.pictures.place(facet, one["row"], f"{facet}: {text}", importance=number)
        if place is None:
            said.append(f"<li><span{hit}>{value}</span>{html.marked(text, words)}</li>")
        else:
            seen.append(f"<figure{hit}>{place}<figcaption>{value}</figcaption></figure>")
    strip = f'<div class="strip">{"".join(seen)}</div>' if seen else ""
    return strip + (f'<ul class="says">{"".join(said)}</ul>' if said else "")


def _sound(file: bytes | None, facet: str) -> str:
    if file is None or len(file) > MOST_SOUND:
        return ""
    kind = next((name for magic, name in _SOUNDS.items() if file.startswith(magic)), None)
    if kind is None:
        return ""
    data = base64.b64encode(file).decode()
    return html.sound(f"data:audio/{kind};base64,{data}", f"the first of {facet}")


def _least(unit: Unit, words: set[str], context: CardContext) -> list[html.Html]:
    bottom = unit.get("bottom") or {}
    blocks = [
        html.Html(
            f'<div class="facet">{html.heading(facet, 4)}'
            f"{_exemplars(bottom[facet][:BOTTOM], facet, words, context, first=TOP)}</div>"
        )
        for facet in _shown(unit, context.facets)
        if bottom.get(facet)
    ]
    return [html.details(["What it answers to least"], *blocks)] if blocks else []


def _near(neighbours: Sequence[Unit], names: Mapping[str, str]) -> list[html.Html]:
    if not neighbours:
        return []
    parts: list[Any] = ["Units with the same concepts: "]
    for one in neighbours:
        parts += [html.link(f"{title_of(one)} {one['unit']}", names[one["unit"]]), "; "]
    return [html.paragraph(*parts)]
