"""What the page on units says of words that are written over pictures."""

from collections.abc import Mapping
from typing import Any

from clipjax.core import html


def typographic_panel(results: Mapping[str, Any] | None) -> list[html.Html]:
    """Returns."""
    del results
    return []
