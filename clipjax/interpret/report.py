"""What was found in a model's units as one page of HTML, of a size that can be sent around."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.config import UserError
from clipjax.core import html
from clipjax.core.files import replaced
from clipjax.interpret import report_figures, report_headline, unit_card
from clipjax.interpret.report_headline import headline, methods, proofs, spaces_table
from clipjax.interpret.report_panels import (
    emergence_panel,
    heat_panel,
    kinds_panel,
    scatter_panel,
)
from clipjax.interpret.report_pictures import PictureOf, SharedPictures
from clipjax.interpret.report_typographic import typographic_panel
from clipjax.interpret.unit_card import CardContext, SoundOf, Unit

Findings = Mapping[str, Any]

SCHEMA = 1
MOST_BYTES = 20_000_000
_OPENED = 3
_GALLERY = 6

_STYLE = """\
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:1rem}
.gallery figure{margin:0}.gallery .strip{grid-template-columns:repeat(4,minmax(0,56px))}
#search input{font:inherit;padding:.4rem .6rem;width:min(24rem,100%);box-sizing:border-box}
#search p{min-height:1.5em;margin:.3rem 0}
.unit[hidden]{display:none}
"""
# The page shows everything without it: it only hides what does not match.
_SCRIPT = """\
(()=>{const place=document.getElementById("search");if(!place)return;
const cards=[...document.querySelectorAll(".unit")],field=document.createElement("input"),
said=document.createElement("p");field.type="search";field.placeholder="Search: a concept, a word";
field.setAttribute("aria-label","Search units");said.setAttribute("role","status");
place.append(field,said);let texts=null;
const text=card=>[...card.querySelectorAll("summary,.words,.top li,.top [aria-label]")]
.map(one=>one.textContent||one.getAttribute("aria-label")).join(" ").toLowerCase();
field.oninput=()=>{texts??=cards.map(text);let hits=0;
const words=field.value.toLowerCase().split(/\\s+/).filter(Boolean);
cards.forEach((card,at)=>{const hit=words.every(word=>texts[at].includes(word));
card.hidden=!hit;hits+=hit});
said.textContent=words.length?hits+" of "+cards.length+" units on this page":""}})();
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What a page holds.

    Attributes:
        path: of the page.
        bytes: of the file.
        units: with cards.
        pictures: that are different.
        left_out: pictures that had no room.
    """

    path: Path
    bytes: int
    units: int
    pictures: int
    left_out: int


def write_report(
    findings: Findings,
    picture_of: PictureOf,
    out: str | os.PathLike[str],
    *,
    most_units: int = 200,
    most_bytes: int = MOST_BYTES,
    sound_of: SoundOf | None = None,
    typographic: Mapping[str, Any] | None = None,
    emergence: Sequence[Mapping[str, Any]] = (),
    advance: Callable[[], None] = lambda: None,
) -> Written:
    """Writes the page and returns what it holds.

    Args:
        findings: of neurons.json.
        picture_of: the picture of a row of a facet, uint8 RGB; None where there is nothing to see.
        out: path of the file.
        most_units: cards; of more units those that come first in `findings`.
        most_bytes: of the file. Pictures get coarser and then fewer, units fewer, to stay below.
        sound_of: likewise the file of what is heard; files above 20 kB are left out.
        typographic: of typographic.json.
        emergence: rows of a run's metrics, with `step` and neurons/...
        advance: is called after each card.

    Raises:
        UserError: if the findings are of another schema, or lack a field.
    """
    if findings.get("schema") != SCHEMA:
        raise UserError(
            f"neurons.json has schema {findings.get('schema')}, this release reads {SCHEMA}. "
            "Test again: clipjax neurons test."
        )
    pictures = SharedPictures(picture_of)
    extras = [*typographic_panel(typographic), *emergence_panel(emergence)]
    shown = min(most_units, len(findings["units"]))
    while True:
        try:
            page = _Page(findings, pictures, sound_of, shown)
            blocks = page.blocks(extras, advance)
        except KeyError as error:
            raise UserError(
                f"neurons.json lacks {error}. Test again: clipjax neurons test."
            ) from error
        bare = _whole(findings, blocks, "")
        if len(bare) <= most_bytes or not shown:
            break
        shown //= 2
    rules, held, left_out = pictures.rules(most_bytes - len(bare))
    whole = _whole(findings, blocks, rules)
    path = Path(out)
    with replaced(path) as file:
        file.write(whole)
    return Written(path=path, bytes=len(whole), units=shown, pictures=held, left_out=left_out)


class _Page:
    """The blocks of a page with a given number of cards."""

    def __init__(
        self,
        findings: Findings,
        pictures: SharedPictures,
        sound_of: SoundOf | None,
        shown: int,
    ):
        self._findings = findings
        self._units: Sequence[Unit] = findings["units"][:shown]
        self._context = CardContext(
            pictures=pictures,
            words={one["id"]: one.get("words", ()) for one in findings["data"]["concepts"]},
            names={unit["unit"]: f"unit{at}" for at, unit in enumerate(self._units)},
            facets=[one["name"] for one in findings["data"]["facets"]],
            sound_of=sound_of,
        )

    def blocks(self, extras: Sequence[str], advance: Callable[[], None]) -> list[str]:
        findings, names = self._findings, self._context.names
        cards = []
        for at, unit in enumerate(self._units):
            near = self._neighbours(unit)
            cards.append(unit_card.unit_card(unit, near, self._context, opened=at < _OPENED))
            advance()
        return [
            *headline(findings),
            *self._gallery(),
            *proofs(findings),
            *spaces_table(findings),
            *scatter_panel(findings, names),
            *heat_panel(findings),
            *kinds_panel(findings),
            *extras,
            *self._card_heading(),
            *cards,
            *methods(findings),
            html.paragraph(html.small(f"clipjax {findings.get('version', '')}")),
        ]

    def _card_heading(self) -> list[str]:
        if not self._units:
            return []
        more = len(self._findings["units"]) > len(self._units)
        rest = " The strongest are here; neurons.json has all." if more else ""
        return [
            html.heading("Units"),
            html.paragraph(
                "What drives each unit most in each facet, the strongest first; ✓ marks stimuli "
                f"with its first concept. Orange in a histogram: all of those.{rest}"
            ),
            '<div id="search"></div>',
        ]

    def _gallery(self) -> list[str]:
        """Returns the first unit of each concept at a glance."""
        cells: list[str] = []
        seen: set[str] = set()
        for unit in self._units:
            title = unit_card.title_of(unit)
            if title in seen or unit["kind"] != "multimodal-same" or len(cells) == _GALLERY:
                continue
            seen.add(title)
            places = unit_card.first_pictures(unit, self._context)
            strip = "".join(
                f"<figure>{place}<figcaption>{html.inline(facet)}</figcaption></figure>"
                for facet, place in places
            )
            name = html.link(title, self._context.names[unit["unit"]])
            cells.append(
                f'<figure><div class="strip">{strip}</div><figcaption><b>{name}</b> '
                f"{html.small(unit['unit'])}</figcaption></figure>"
            )
        return [f'<div class="gallery">{"".join(cells)}</div>'] if cells else []

    def _neighbours(self, unit: Unit) -> list[Unit]:
        own = {one["concept"] for one in unit["concepts"]}
        scored = []
        for at, other in enumerate(self._units):
            theirs = {one["concept"] for one in other["concepts"]}
            if other is not unit and own & theirs:
                scored.append((-len(own & theirs) / len(own | theirs), at))
        return [self._units[at] for _, at in sorted(scored)[: unit_card.NEIGHBOURS]]


def _whole(findings: Findings, blocks: Sequence[str], rules: str) -> bytes:
    style = report_figures.STYLE + report_headline.STYLE + unit_card.STYLE + _STYLE + rules
    title = f"Multimodal neurons of {findings['model']['spec']}"
    # Names of files may hold bytes that are no text.
    return html.page(title, *blocks, style=style, script=_SCRIPT).encode("utf-8", "replace")
