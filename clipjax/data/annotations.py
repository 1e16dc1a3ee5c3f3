"""Reads the names and keywords of characters in the languages of Unicode's CLDR."""

import re
import xml.etree.ElementTree
from pathlib import Path
from typing import NamedTuple

from clipjax.config.errors import UsageError, did_you_mean

_EMOJI_STYLE = "\ufe0f"
_KINDS = ("annotations", "annotationsDerived")
_INHERITED = "\u2191\u2191\u2191"  # stands for what the parent has


class Annotations(NamedTuple):
    """What a locale calls characters, by their text without style marks."""

    names: dict[str, str]
    keywords: dict[str, list[str]]


def bare(text: str) -> str:
    """Returns an emoji as CLDR lists it: without the mark that asks for the coloured form."""
    return text.replace(_EMOJI_STYLE, "")


def known_locales(common: Path) -> list[str]:
    """Returns the locales that CLDR has annotations in, e.g. "de" and "zh_Hant"."""
    return sorted(path.stem for path in (common / "annotations").glob("*.xml"))


def check_locales(locales: tuple[str, ...], common: Path) -> None:
    """Raises UsageError, with the nearest name, for a locale without annotations, or one twice."""
    known = known_locales(common)
    for place, locale in enumerate(locales):
        if locale not in known or locale == "root":
            raise UsageError(
                f"--locales: {locale!r} has no annotations in {common}."
                f"{did_you_mean(locale, known)} There are {len(known)}, e.g. en, de, ja, zh_Hant."
            )
        if locale in locales[:place]:
            raise UsageError(f"--locales: {locale!r} is there twice. Name each once.")


def read_annotations(common: Path, locale: str = "en") -> Annotations:
    """Returns what a locale says, and where it says nothing, what its parents say.

    Both are empty where CLDR's files are missing.

    Args:
        common: CLDR's folder with "annotations" in it.
        locale: e.g. "de_CH", which has only what differs from "de".
    """
    merged = Annotations({}, {})
    for one in reversed(_with_parents(common, locale)):
        for path in (common / kind / f"{one}.xml" for kind in _KINDS):
            if path.exists():
                _add(merged, path)
    return merged


def _add(merged: Annotations, path: Path) -> None:
    root = xml.etree.ElementTree.parse(path).getroot()  # noqa: S314 (a file of the system)
    for entry in root.iter("annotation"):
        text, words = bare(entry.get("cp", "")), (entry.text or "").strip()
        if _INHERITED in words or not words:
            continue
        if entry.get("type") == "tts":
            merged.names[text] = words
        else:
            merged.keywords[text] = [word.strip() for word in words.split("|") if word.strip()]


def _with_parents(common: Path, locale: str) -> list[str]:
    """Returns a locale, its parent, and so on. A script of its own has none but those listed."""
    chain, listed = [locale], _listed_parents(common)
    while locale != "root":
        locale = listed.get(locale) or locale.rpartition("_")[0] or "root"
        chain.append(locale)
    return chain[:-1]


def _listed_parents(common: Path) -> dict[str, str]:
    path = common / "supplemental" / "supplementalData.xml"
    if not path.exists():
        return {}
    found = re.findall(
        r'<parentLocale parent="(\w+)" locales="([^"]+)"', path.read_text(encoding="utf-8")
    )
    # Later releases list parents of collations and the like too, behind those that count here.
    return {locale: parent for parent, all_ in reversed(found) for locale in all_.split()}
