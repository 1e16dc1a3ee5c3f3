"""What the page on units says of words that are written over pictures."""

from collections.abc import Mapping
from typing import Any

from clipjax.config import UserError
from clipjax.core import html
from clipjax.interpret.report_figures import count, figure

_ARMS = {
    "clean": "nothing is written",
    "scrambled": "the letters of a wrong word, mixed up",
    "incongruent": "a wrong word",
    "congruent": "the right word",
}
_SCORES = {
    "reading": "right about a word alone",
    "hijack": "says the wrong word: written, less scrambled",
    "drop": "right: scrambled, less a wrong word",
    "stroop": "right: the right word, less a wrong one",
    "covering": "right: clean, less scrambled",
}


def typographic_panel(results: Mapping[str, Any] | None) -> list[html.Html]:
    """Returns the four arms, and what words do beyond covering the picture.

    Args:
        results: of typographic.json; None if there are none.

    Raises:
        UserError: if a score is missing.
    """
    if results is None:
        return []
    try:
        arms = [
            [
                html.Html(f"{arm} {html.small(text)}"),
                *_score(results["accuracy"][arm], f"right, {arm}"),
                *_score(results["says_word"][arm], f"says the wrong word, {arm}"),
            ]
            for arm, text in _ARMS.items()
        ]
        scores = [
            [html.Html(f"{name} {html.small(text)}"), *_score(results[name], name)]
            for name, text in _SCORES.items()
        ]
        said = html.paragraph(
            "Of ",
            count(results["stimuli"]),
            " pictures with a word over each, ",
            count(results["trials"]),
            " trials, ",
            count(results["classes"]),
            " classes. Words are compared with their own scrambled letters at the same place: "
            "whatever is written covers something.",
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"typographic.json lacks {error}. Make it again: clipjax neurons typographic."
        ) from error
    head = ("arm", "right", "", "95 %", "wrong word", "", "95 %")
    return [
        html.heading("Words over pictures"),
        said,
        html.Html(f'<div class="compact">{html.table(("score", "", "", "95 %"), scores)}</div>'),
        html.Html(f'<div class="compact">{html.table(head, arms)}</div>'),
    ]


def _score(fields: Mapping[str, Any], name: str) -> list[html.Html]:
    value, low, high = (fields[key] for key in ("value", "low", "high"))
    return [
        figure(value),
        html.interval(value, low, high, None, name),
        html.Html(f"{figure(low)} to {figure(high)}"),
    ]
