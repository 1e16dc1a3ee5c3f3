"""Writes one thing in several ways: as a photo, a drawing, a written word, a caption, speech.

A stimulus is an emoji; its facets share the stimulus id, and the concepts that it belongs to are
keywords of Unicode's CLDR. Searches for neurons read them (`stimulus_files.py`).
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.config.errors import UsageError, UserError, did_you_mean
from clipjax.core.progress import Progress
from clipjax.data import spoken
from clipjax.data.annotations import Annotations, bare, check_locales, read_annotations
from clipjax.data.concept_families import merge_families
from clipjax.data.concepts import Concept, named_concepts, save_concepts
from clipjax.data.emoji import (
    UNICODE_ROOT,
    Emoji,
    draw_colour,
    draw_lines,
    rank,
    read_emoji,
    split_emoji,
)
from clipjax.data.emoji_fonts import FONT_ROOTS, INSTALL, load_colour_font, load_drawing_font
from clipjax.data.ordered_map import ordered_map
from clipjax.data.word_pictures import WordPainter, scrambled
from clipjax.data.words import STOP_WORDS, words_of
from clipjax.data.writers import DatasetFolder, Members, Sample, write_members, write_shards

FACETS = {
    "colour": "photo",
    "drawing": "drawing",
    "word": "word",
    "caption": "caption",
    "speech": "speech",
}
"""What --facets names, and the facet that it makes."""

CONTROL = "scrambled"
"""Comes with `word`: the same pictures with the letters in another order."""

CONCEPTS = "concepts.json"

_LEAST = 8  # stimuli of a concept: fewer make no test


class Stimulus(NamedTuple):
    """One emoji and what all its samples say.

    Attributes:
        id: its code points, e.g. "1F431".
        emoji: what Unicode says of it.
        split: of `make_emoji` with the same seed: "train" or "concept" (held out).
    """

    id: str
    emoji: Emoji
    split: str


_Rows = dict[str, Sequence[tuple[Stimulus, Any]]]
"""What each facet has of each of its stimuli: a picture, a text, texts by locale."""


def make_stimuli(
    out: str | os.PathLike[str],
    *,
    facets: Sequence[str] = ("colour", "drawing", "word", "caption"),
    locales: Sequence[str] = ("en",),
    size: int = 64,
    seed: int = 0,
    views: int = 4,
    font_roots: Sequence[str] = FONT_ROOTS,
    unicode_root: str = UNICODE_ROOT,
) -> dict[str, Any]:
    """Writes a folder of shards for each facet, and concepts.json, under `out`.

    Stimuli are the emoji without skin tones and flags; those that a facet lacks (the font of line
    drawings has about two thirds) are left out of that facet. Concepts are keywords with at least
    8 stimuli that all facets have; keywords of nearly the same stimuli are one. What is written is
    a function of the arguments, the release of Unicode's data, the fonts and espeak-ng.

    Args:
        out: the folder to write; if it is complete already, nothing is done.
        facets: keys of FACETS.
        locales: languages of the captions, as CLDR calls them.
        size: side of the square pictures in pixels.
        seed: order, places, sizes, colours, scrambled letters, voices and `split`.
        views: pictures of each word, and voices.
        font_roots: folders to search for the fonts.
        unicode_root: where emoji-test.txt and CLDR's annotations lie.

    Returns:
        The content of dataset.json: arguments, `facets` (samples each), `stimuli`, `concepts`.

    Raises:
        UsageError: for arguments that cannot be.
        UserError: if a font or CLDR is missing, or `out` holds other things.
    """
    common = Path(unicode_root) / "cldr" / "common"
    chosen = _check(facets, tuple(locales), common, size, seed, views)
    arguments = {
        "facets": list(chosen),
        "locales": list(locales),
        "size": size,
        "seed": seed,
        "views": views,
    }
    own = (*FACETS.values(), CONTROL, CONCEPTS)
    folder = DatasetFolder(out, "stimuli", arguments, own)
    if (found := folder.complete()) is not None:
        return found
    rows = _rows(chosen, size, seed, font_roots, Path(unicode_root))
    stimuli = [one for one, _ in rows["photo"]]
    painter = WordPainter(font_roots, size, seed) if "word" in chosen else None
    if "caption" in chosen:
        rows["caption"] = _captions(stimuli, locales, common)
    concepts = make_concepts({facet: [one for one, _ in rows[facet]] for facet in chosen})
    ids_of = _ids_by_stimulus(concepts)
    writer = _Writer(folder.path, {one.id: ids_of.get(one.id, []) for one in stimuli}, views, seed)
    folder.begin()
    counts: dict[str, int] = {}
    for facet in chosen:
        counts |= writer.write(facet, rows, painter)
    facets_made = [facet for facet in counts if facet != CONTROL]
    controls = [facet for facet in counts if facet == CONTROL]
    save_concepts(folder.path / CONCEPTS, concepts, facets=facets_made, controls=controls)
    return folder.finish(
        {"facets": counts, "stimuli": len(stimuli), "concepts": len(concepts), **writer.said}
    )


def make_concepts(
    stimuli: Mapping[str, Sequence[Stimulus]], *, least: int = _LEAST
) -> list[Concept]:
    """Returns the concepts of stimuli by their keywords.

    Args:
        stimuli: of each facet.
        least: stimuli with all facets that a keyword must have.

    Raises:
        UserError: if there is none.
    """
    in_all = set.intersection(*({one.id for one in of_facet} for of_facet in stimuli.values()))
    members: dict[str, set[str]] = {}
    everyone = {one.id: one for of_facet in stimuli.values() for one in of_facet}
    for one in everyone.values():
        for word in _keywords(one.emoji):
            members.setdefault(word, set())
            if one.id in in_all:
                members[word].add(one.id)
    families = merge_families(members, least=least)
    if not families:
        raise UserError(
            f"no concept: no keyword has {least} stimuli with each of {', '.join(stimuli)}. "
            f"{INSTALL}, or ask for fewer --facets."
        )
    concepts = []
    for concept in named_concepts(family.words for family in families):
        words = set(concept.words)
        positives = {
            facet: tuple(sorted(one.id for one in of_facet if words & set(_keywords(one.emoji))))
            for facet, of_facet in stimuli.items()
        }
        concepts.append(Concept(concept.id, concept.name, concept.words, positives))
    return concepts


def check_facets(facets: Sequence[str]) -> None:
    """Raises UsageError, with the nearest name, for an unknown facet, one twice, or none."""
    for facet in facets:
        if facet not in FACETS:
            raise UsageError(
                f"--facets: no facet {facet!r}.{did_you_mean(facet, FACETS)} There are "
                f"{', '.join(FACETS)}."
            )
    if not facets or len(set(facets)) < len(facets):
        raise UsageError(f"--facets {','.join(facets)}: wanted one or more, each once.")


def _check(
    facets: Sequence[str],
    locales: tuple[str, ...],
    common: Path,
    size: int,
    seed: int,
    views: int,
) -> tuple[str, ...]:
    """Returns the facets to be made, in the order of FACETS."""
    check_facets(facets)
    if not 16 <= size <= 1024:
        raise UsageError(f"--size {size}: wanted 16 to 1024 pixels, so that words can be read.")
    if seed < 0:
        raise UsageError(f"--seed {seed}: wanted 0 or more.")
    if not 1 <= views <= 100:
        raise UsageError(f"--views {views}: wanted 1 to 100.")
    if not (common / "annotations" / "en.xml").exists():
        raise UserError(f"{common}: no CLDR annotations, so no concepts. {INSTALL}")
    if not locales:
        raise UsageError("--locales is empty: wanted one or more, e.g. en,de.")
    check_locales(locales, common)
    chosen = [FACETS[facet] for facet in FACETS if facet in facets]
    if "speech" in chosen and spoken.find_speaker() is None:
        print(f"{spoken.PROGRAM}: not installed, so no speech. {spoken.INSTALL}", file=sys.stderr)
        chosen.remove("speech")
        if not chosen:
            raise UserError(f"{spoken.PROGRAM}: not installed. {spoken.INSTALL}")
    return tuple(chosen)


def _rows(
    chosen: Sequence[str], size: int, seed: int, font_roots: Sequence[str], unicode_root: Path
) -> _Rows:
    """Draws what is to be drawn of the stimuli, which come in an order of their own."""
    colour_font, drawing_font = load_colour_font(font_roots), load_drawing_font(font_roots)
    if "drawing" in chosen and drawing_font is None:
        raise UserError(
            f"no font of line drawings in {', '.join(font_roots)}. {INSTALL}, or leave drawing "
            "out of --facets."
        )
    plain = [
        one
        for one in read_emoji(unicode_root)
        if one.skin_tone is None and one.group not in ("Flags", "Component")
    ]
    colour, _ = draw_colour(plain, colour_font, size)
    split_of = split_emoji([one for one, _ in colour], seed)
    stimuli = {
        one.text: Stimulus(
            "-".join(f"{ord(mark):04X}" for mark in bare(one.text)), one, split_of[one.text]
        )
        for one in sorted((one for one, _ in colour), key=lambda one: rank(seed, "order", one.text))
    }
    pictures = {one.text: picture for one, picture in colour}
    rows: _Rows = {
        "photo": [(one, pictures[text]) for text, one in stimuli.items()],
        "word": [(one, one.emoji.concept) for one in stimuli.values()],
        "speech": [(one, one.emoji.concept) for one in stimuli.values()],
    }
    if "drawing" in chosen:
        drawn = draw_lines([one for one, _ in colour], drawing_font, size, split_of)
        lines = {one.text: picture for one, picture in drawn}
        rows["drawing"] = [(one, lines[text]) for text, one in stimuli.items() if text in lines]
    return {facet: of_facet for facet, of_facet in rows.items() if facet in (*chosen, "photo")}


def _captions(
    stimuli: Sequence[Stimulus], locales: Sequence[str], common: Path
) -> list[tuple[Stimulus, dict[str, list[str]]]]:
    """Returns the captions of each stimulus by locale: the name, and the name with keywords."""
    said: dict[str, Annotations] = {one: read_annotations(common, one) for one in locales}
    rows: list[tuple[Stimulus, dict[str, list[str]]]] = []
    named = dict.fromkeys(locales, 0)
    for one in stimuli:
        text, by_locale = bare(one.emoji.text), {}
        for locale, (names, keywords) in said.items():
            if name := names.get(text):
                further = [word for word in keywords.get(text, []) if word != name]
                by_locale[locale] = list(dict.fromkeys([name, ", ".join([name, *further])]))
                named[locale] += 1
        if by_locale:
            rows.append((one, by_locale))
    if empty := [locale for locale, count in named.items() if not count]:
        raise UserError(f"--locales: {empty[0]!r} names none of the emoji. Leave it out.")
    return rows


def _keywords(emoji: Emoji) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.lower() for word in emoji.keywords))


def _ids_by_stimulus(concepts: Sequence[Concept]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for concept in concepts:
        for stimulus in sorted({one for ids in concept.positives.values() for one in ids}):
            found.setdefault(stimulus, []).append(concept.id)
    return found


class _Writer:
    """Writes the shards of one facet after the other."""

    def __init__(self, path: Path, concepts_of: Mapping[str, list[str]], views: int, seed: int):
        self._path, self._concepts_of = path, concepts_of
        self._views, self._seed = views, seed
        self.said: dict[str, Any] = {}

    def write(self, facet: str, rows: _Rows, painter: WordPainter | None) -> dict[str, int]:
        """Writes a facet, with its control if it has one, and returns the samples of each."""
        of_facet = rows[facet]
        if facet == "word":
            assert painter is not None
            return self._write_words(of_facet, painter)
        if facet == "speech":
            return {facet: write_members(self._path / facet, self._spoken(of_facet))}
        if facet == "caption":
            return {facet: write_members(self._path / facet, self._written(of_facet))}
        samples = (
            Sample(picture, one.emoji.concept, self._fields(one, facet))
            for one, picture in of_facet
        )
        return {facet: write_shards(self._path / facet, samples)}

    def _fields(self, one: Stimulus, facet: str, view: int = 0) -> dict[str, Any]:
        return {
            "concept": one.emoji.concept,
            "concepts": self._concepts_of[one.id],
            "facet": facet,
            "stimulus": one.id,
            "view": view,
            "split": one.split,
        }

    def _write_words(
        self, of_facet: Sequence[tuple[Stimulus, str]], painter: WordPainter
    ) -> dict[str, int]:
        known = STOP_WORDS | {
            word
            for one, text in of_facet
            for phrase in (text, *one.emoji.keywords)
            for word in words_of(phrase)
        }
        changed = {text: scrambled(text, self._seed, known) for _, text in of_facet}

        def drawn(facet: str, keep: Callable[[str], str | None]) -> Iterator[Sample]:
            total = len(of_facet) * self._views
            with Progress(f"writing pictures of {facet}", total, "pictures") as progress:
                for one, text in of_facet:
                    shown = keep(text)
                    for view in range(self._views if shown else 0):
                        assert shown is not None
                        texts = [shown, text, changed[text] or text]
                        picture = painter.draw(texts, f"{one.id}:{view}")[0]
                        yield Sample(picture, shown, self._fields(one, facet, view))
                        progress.advance()

        return {
            "word": write_shards(self._path / "word", drawn("word", lambda text: text)),
            CONTROL: write_shards(self._path / CONTROL, drawn(CONTROL, changed.__getitem__)),
        }

    def _written(self, of_facet: Sequence[tuple[Stimulus, Any]]) -> Iterator[Members]:
        for one, by_locale in of_facet:
            for view, (locale, captions) in enumerate(by_locale.items()):
                fields = self._fields(one, "caption", view)
                said = {"caption": captions[0], "captions": captions, "locale": locale}
                yield {"txt": captions[0].encode(), "json": {"key": "", **said, **fields}}

    def _spoken(self, of_facet: Sequence[tuple[Stimulus, str]]) -> Iterator[Members]:
        program = spoken.find_speaker()
        assert program is not None
        wanted = [(one, text, view) for one, text in of_facet for view in range(self._views)]

        def speak(item: tuple[Stimulus, str, int]) -> Members:
            one, text, view = item
            voice = spoken.voice_of(self._seed, f"{one.id}:{view}")
            fields = self._fields(one, "speech", view)
            return {
                "wav": spoken.speak(program, text, voice),
                "txt": text.encode(),
                "json": {"key": "", "caption": text, **voice, **fields},
            }

        with Progress("speaking", len(wanted), "words") as progress:
            for members in ordered_map(speak, wanted, threads=os.cpu_count() or 1):
                yield members
                progress.advance()
