"""One page of HTML that needs nothing else: no font, no address outside of it.

Browsers are told to load nothing and to run no script but the one that the page was made with.
Blocks are pieces of HTML that these functions make. Whatever else goes into them is text and is
escaped; a piece that one of them made may stand in another, a score in a table for example.
"""

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """\
:root{color-scheme:light dark;--line:#ccc;--soft:#eee;--mark:#2a6fbb;--page:#fff}
:root{--bad:#c00;--good:#18794e}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
body{background:var(--page);overflow-wrap:break-word}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse}
th,td{padding:.2rem .5rem;border-bottom:1px solid var(--line);text-align:right}
th,td{white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal}
th:first-child,td:first-child{position:sticky;left:0;background:var(--page)}
.bar{display:flex;height:1.6rem;background:var(--soft);margin:1rem 0}
.bar span{overflow:hidden;white-space:nowrap;font-size:12px;line-height:1.6rem;text-indent:.3rem}
.over{outline:2px solid var(--bad)}
details{border-bottom:1px solid var(--line);padding:.4rem 0}
summary{cursor:pointer;font-weight:600}
a{color:inherit}
svg{font:11px system-ui,sans-serif;fill:currentColor;max-width:100%}
.interval{width:7.5rem;height:1rem;max-width:none;vertical-align:middle}
.soft{fill:var(--soft)}.mark{fill:var(--mark)}.pale{fill:var(--mark);opacity:.35}
.line{stroke:currentColor;stroke-width:1}.dash{stroke:currentColor;stroke-dasharray:3 3}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.5rem,1fr));gap:.8rem}
figure{margin:.5rem 0;font-size:13px;line-height:1.3}
.roomy{grid-template-columns:repeat(auto-fill,minmax(min(18rem,100%),1fr))}
.roomy figure{display:grid;grid-template-columns:96px 1fr;gap:.6rem}
img,.gone{display:block;max-width:96px;max-height:96px;margin-bottom:.3rem}
.gone{width:96px;height:96px;background:var(--soft)}
.badge{display:inline-block;font-size:12px;line-height:1.4;padding:0 .45rem;margin:0 .25rem .1rem 0}
.badge{border:1px solid currentColor;border-radius:.7rem;font-weight:400;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}
.box{border:1px solid var(--line);border-radius:.4rem;padding:.6rem .9rem;margin:1rem 0}
.box.good{border-left:.4rem solid var(--good)}.box.bad{border-left:.4rem solid var(--bad)}
.box.good,.box.bad{color:inherit}
mark{background:#ffe28a;color:#000;border-radius:2px}
.shared{display:block;background:var(--soft) center/contain no-repeat;print-color-adjust:exact}
@media(prefers-color-scheme:dark){
:root{--line:#444;--soft:#333;--mark:#6ba7e5;--page:#111;--bad:#f66;--good:#5c9}
body{color:#ddd}}
@media(max-width:40rem){th,td{padding:.2rem .4rem}td:first-child{max-width:36vw}}
"""
_COLOURS = ("#88b4e8", "#f2b880", "#a6d49f", "#d7a6d4", "#f0e08a", "#8fd3d1", "#c9c9c9")
_WIDTH, _HEIGHT = 120, 16
_SIDE, _LEFT, _BELOW = 200, 34, 34

Number = int | float


class Html(str):
    """A piece of HTML. Text of any other type is escaped where it is put into one."""

    __slots__ = ()


def page(title: str, *blocks: str, style: str = "", script: str = "") -> str:
    """Returns a whole page.

    Args:
        title: plain text.
        blocks: of the functions below.
        style: further rules, of this page.
        script: that the page can do without. No other runs, whatever stands in a text.
    """
    name = html.escape(title)
    end = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}{style}</style></head>\n<body><h1>{name}</h1>\n"
        + "\n".join(blocks)
        + f"\n{end}</body></html>\n"
    )


def _policy(script: str) -> str:
    allowed = "default-src 'none';style-src 'unsafe-inline';img-src data:;media-src data:"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed += f";script-src 'sha256-{digest}'"
    return allowed


def heading(text: str, level: int = 2) -> Html:
    """Returns a heading below the title.

    >>> heading("a < b")
    '<h2>a &lt; b</h2>'
    """
    return Html(f"<h{level}>{html.escape(text)}</h{level}>")


def inline(*parts: Any) -> Html:
    """Returns text and inline pieces as one piece.

    >>> inline("a < ", number(1, "1"))
    'a &lt; <data value="1">1</data>'
    """
    return Html(_inline(*parts))


def paragraph(*parts: Any) -> Html:
    """Returns a paragraph."""
    return Html(f"<p>{_inline(*parts)}</p>")


def bullets(texts: Iterable[str]) -> Html:
    """Returns a list."""
    return Html(f"<ul>{''.join(f'<li>{_inline(text)}</li>' for text in texts)}</ul>")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    """Returns a table; the first column is text, the others stand to the right."""
    top = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return Html(
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def bar(parts: Sequence[tuple[str, Number]], whole: Number) -> Html:
    """Returns a bar of labelled parts of a whole, framed in red if they are more than it.

    Args:
        parts: names and sizes, none negative.
        whole: what the width of the page stands for, unless the parts are more.
    """
    total = sum(size for _, size in parts)
    full = max(total, whole) or 1
    spans = "".join(
        f'<span style="width:{100 * size / full:.2f}%;background:{colour};color:#000" '
        f'title="{html.escape(name)}">{html.escape(name)}</span>'
        for (name, size), colour in zip(parts, _COLOURS * len(parts), strict=False)
    )
    over = " over" if total > whole else ""
    return Html(f'<div class="bar{over}">{spans}</div>')


def number(value: Number, shown: str) -> Html:
    """Returns a number as people read it, with all of its digits for programs.

    >>> number(0.123456789, "12 %")
    '<data value="0.123456789">12 %</data>'
    """
    return Html(f'<data value="{value!r}">{html.escape(shown)}</data>')


def small(text: str) -> Html:
    """Returns text that matters less."""
    return Html(f"<small>{html.escape(text)}</small>")


def link(text: str, name: str) -> Html:
    """Returns a link to the block of that name on the same page."""
    return Html(f'<a href="#{html.escape(name)}">{html.escape(text)}</a>')


def details(summary: Sequence[Any], *blocks: str, name: str = "", opened: bool = False) -> Html:
    """Returns blocks that are seen once the summary is touched.

    Args:
        summary: text, and inline pieces.
        blocks: what is below it.
        name: that links lead to; without blanks.
        opened: whether they are seen at once.
    """
    # A link opens what it leads to only if that is inside.
    inside = f'<div id="{html.escape(name)}">' if name else "<div>"
    return Html(
        f"<details{' open' if opened else ''}><summary>{_inline(*summary)}</summary>{inside}\n"
        + "\n".join(blocks)
        + "\n</div></details>"
    )


def picture(address: str | None, alt: str) -> Html:
    """Returns an image that is part of the page, or a grey square.

    Args:
        address: begins with `data:image/`; None for a picture that there is not.
        alt: what it shows, in words.

    Raises:
        ValueError: if the address leads outside of the page.
    """
    if address is None:
        return Html(f'<span class="gone" role="img" aria-label="{html.escape(alt)}"></span>')
    if not address.startswith("data:image/"):
        raise ValueError(f"a picture at {address[:40]!r}; expected data:image/")
    return Html(f'<img src="{html.escape(address)}" alt="{html.escape(alt)}">')


def shared_picture(name: str, alt: str) -> Html:
    """Returns a place that shows the picture of `shared_picture_rule`, as often as it is needed.

    Args:
        name: of the picture: a letter, then letters, digits and hyphens.
        alt: what it shows, in words.
    """
    return Html(f'<span class="shared {name}" role="img" aria-label="{html.escape(alt)}"></span>')


def shared_picture_rule(name: str, address: str) -> str:
    """Returns the rule of style that holds a picture once for all of its places.

    Args:
        name: of the picture: a letter, then letters, digits and hyphens.
        address: of the data itself, in base64.

    Raises:
        ValueError: if the address is anything else.
    """
    if not re.fullmatch(r"data:image/\w+;base64,[A-Za-z0-9+/=]+", address):
        raise ValueError(f"a picture at {address[:40]!r}; expected data:image/TYPE;base64,")
    return f".{name}{{background-image:url({address})}}\n"


def sound(address: str, words: str) -> Html:
    """Returns a sound that is part of the page, and that is played when it is asked for.

    Args:
        address: begins with `data:audio/`.
        words: what is heard.

    Raises:
        ValueError: if the address leads outside of the page.
    """
    if not address.startswith("data:audio/"):
        raise ValueError(f"a sound at {address[:40]!r}; expected data:audio/")
    return Html(
        f'<audio controls preload="none" src="{html.escape(address)}" '
        f'aria-label="{html.escape(words)}"></audio>'
    )


def badge(text: str, tone: str = "") -> Html:
    """Returns a word or two in a frame.

    Args:
        text: what it says.
        tone: "good", "bad", or "" for neither.
    """
    return Html(f'<span class="badge {tone}">{html.escape(text)}</span>')


def box(*blocks: str, tone: str = "") -> Html:
    """Returns blocks in a frame, which is green if the tone is "good" and red if it is "bad"."""
    return Html(f'<div class="box {tone}">' + "\n".join(blocks) + "</div>")


def marked(text: str, words: Iterable[str]) -> Html:
    """Returns text in which whole words stand out, in upper or lower case.

    >>> marked("Dogs & a dog", ["dog"])
    'Dogs &amp; a <mark>dog</mark>'
    """
    longest_first = sorted({re.escape(word) for word in words if word}, key=len, reverse=True)
    if not longest_first:
        return Html(html.escape(text))
    pieces = re.split(rf"(?<!\w)({'|'.join(longest_first)})(?!\w)", text, flags=re.IGNORECASE)
    return Html(
        "".join(
            f"<mark>{html.escape(piece)}</mark>" if number % 2 else html.escape(piece)
            for number, piece in enumerate(pieces)
        )
    )


def grid(cells: Iterable[tuple[Html, Sequence[Any]]], *, wide: bool = False) -> Html:
    """Returns pictures side by side, as many as the width has room for.

    Args:
        cells: each a picture, and the text and inline pieces below it.
        wide: whether the text stands at the right instead and has room for sentences.
    """
    figures = "".join(
        f"<figure>{image}<figcaption>{_inline(*caption)}</figcaption></figure>"
        for image, caption in cells
    )
    return Html(f'<div class="grid{" roomy" if wide else ""}">{figures}</div>')


def interval(value: Number, low: Number, high: Number, chance: Number | None, name: str) -> Html:
    """Returns a small drawing of a score between 0 and 1: its bar, its interval, and chance.

    Args:
        value: where the bar ends.
        low: lower end of the interval.
        high: upper end.
        chance: a dashed line; None for none.
        name: what it is the score of.
    """

    def at(share: Number) -> str:
        return f"{_WIDTH * min(max(share, 0.0), 1.0):.2f}"

    words = f"{name}: {value:.4f}, from {low:.4f} to {high:.4f}"
    dashed = ""
    if chance is not None:
        words += f", chance {chance:.4f}"
        x = at(chance)
        dashed = f'<line class="dash" x1="{x}" x2="{x}" y1="0" y2="{_HEIGHT}"/>'
    end, left, right = at(value), at(low), at(high)
    return Html(
        f'<svg class="interval" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(words)}">'
        f'<rect class="soft" width="{_WIDTH}" height="{_HEIGHT}"/>'
        f'<rect class="pale" width="{end}" height="{_HEIGHT}"/>{dashed}'
        f'<line class="line" x1="{left}" x2="{right}" y1="8" y2="8"/>'
        f'<line class="line" x1="{left}" x2="{left}" y1="5" y2="11"/>'
        f'<line class="line" x1="{right}" x2="{right}" y1="5" y2="11"/>'
        f'<circle class="mark" cx="{end}" cy="8" r="3"/></svg>'
    )


def diagonal_chart(
    bins: Sequence[tuple[Number, Number, Number, str]], x_label: str, y_label: str, name: str
) -> Html:
    """Returns bars over bins of 0 to 1 beside the diagonal on which both axes are equal.

    Args:
        bins: each its two ends, its height from 0 to 1, and a text that is shown when it is
            pointed at.
        x_label: below.
        y_label: at the left.
        name: what the whole shows, in words.
    """
    bars = "".join(
        f'<rect class="pale" x="{_LEFT + _SIDE * low:.2f}" y="{_SIDE * (1 - height) + 6:.2f}" '
        f'width="{max(_SIDE * (high - low) - 1, 0.5):.2f}" height="{_SIDE * height:.2f}">'
        f"<title>{html.escape(text)}</title></rect>"
        for low, high, height, text in bins
    )
    ticks = "".join(
        f'<text x="{_LEFT + _SIDE * share}" y="{_SIDE + 20}" text-anchor="middle">{share:g}</text>'
        f'<text x="{_LEFT - 4}" y="{_SIDE * (1 - share) + 10}" text-anchor="end">{share:g}</text>'
        for share in (0, 0.5, 1)
    )
    right, bottom = _LEFT + _SIDE, _SIDE + 6
    middle, beside = _LEFT + _SIDE / 2, bottom - _SIDE / 2
    return Html(
        f'<svg width="{right + 12}" viewBox="0 0 {right + 12} {bottom + _BELOW}" role="img" '
        f'aria-label="{html.escape(name)}">{bars}'
        f'<line class="line" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        f'<line class="line" x1="{_LEFT}" x2="{_LEFT}" y1="6" y2="{bottom}"/>'
        f'<line class="dash" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="6"/>{ticks}'
        f'<text x="{middle}" y="{bottom + 28}" text-anchor="middle">{html.escape(x_label)}</text>'
        f'<text transform="rotate(-90 9 {beside})" x="9" y="{beside}" text-anchor="middle">'
        f"{html.escape(y_label)}</text></svg>"
    )


def _inline(*parts: Any) -> str:
    return "".join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts)
