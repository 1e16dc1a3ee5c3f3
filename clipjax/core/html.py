"""One page of HTML that needs nothing else: no script, no font, no address outside of it.

Blocks are strings of HTML that these functions make; whatever text goes into them is escaped.
"""

import html
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}
th,td{padding:.2rem .8rem;border-bottom:1px solid #ccc;text-align:right}
th:first-child,td:first-child{text-align:left}
.bar{display:flex;height:1.6rem;background:#eee;margin:1rem 0}
.bar span{overflow:hidden;white-space:nowrap;font-size:12px;line-height:1.6rem;text-indent:.3rem}
.over{outline:2px solid #c00}
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}.bar{background:#333}}
"""
_COLOURS = ("#88b4e8", "#f2b880", "#a6d49f", "#d7a6d4", "#f0e08a", "#8fd3d1", "#c9c9c9")


def page(title: str, *blocks: str) -> str:
    """Returns a whole page.

    Args:
        title: plain text.
        blocks: of the functions below.
    """
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{name}</h1>\n"
        + "\n".join(blocks)
        + "\n</body></html>\n"
    )


def heading(text: str) -> str:
    """Returns a heading below the title.

    >>> heading("a < b")
    '<h2>a &lt; b</h2>'
    """
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Returns a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def bullets(texts: Iterable[str]) -> str:
    """Returns a list."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table; the first column is text, the others stand to the right."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def bar(parts: Sequence[tuple[str, int | float]], whole: int | float) -> str:
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
    return f'<div class="bar{over}">{spans}</div>'
