"""Makes image-text pairs of the emoji of a system's fonts: about 3,600, without a download."""

import dataclasses
import hashlib
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from clipjax.config.errors import UsageError
from clipjax.core.progress import Progress
from clipjax.data.annotations import bare, read_annotations
from clipjax.data.emoji_fonts import (
    FONT_ROOTS,
    INSTALL,
    Font,
    draw_glyph,
    is_blank,
    load_colour_font,
    load_drawing_font,
)
from clipjax.data.writers import DatasetFolder, Sample, write_shards

UNICODE_ROOT = "/usr/share/unicode"
SPLITS = ("train", "combination", "concept", "style", "style_concept")

Drawn = list[tuple["Emoji", Image.Image]]

_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_UNASSIGNED = "\u0378"  # no font has it, so it is drawn as the box for missing glyphs
_HELD_OUT_CONCEPTS = 0.09  # of the tone-less, non-flag emoji: 144 of those of Unicode 15.0
_HELD_OUT_COMBINATIONS = 0.15  # of the variants with one skin tone
_NO_CLASS = ("Flags", "Component")
_TEMPLATES = (
    "{c}",
    "an emoji of {c}",
    "an emoji from the group {c}",
    "a small picture of {c}",
    "a symbol that stands for {c}",
)


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One emoji and what Unicode says about it.

    `concept` is the name without the skin tone; `skin_tone` has the words that were taken off,
    e.g. "medium skin tone", or two of them for two people.
    """

    text: str
    name: str
    concept: str
    skin_tone: str | None = None
    keywords: tuple[str, ...] = ()
    group: str | None = None
    subgroup: str | None = None


def make_emoji(
    out: str | os.PathLike[str],
    *,
    size: int = 64,
    seed: int = 0,
    font_roots: Sequence[str] = FONT_ROOTS,
    unicode_root: str = UNICODE_ROOT,
) -> dict[str, Any]:
    """Draws every emoji of the installed fonts and writes five splits of them under `out`.

    `train` has the colour pictures. `combination` (15 % of the single-skin-tone variants) has
    seen concepts in unseen tones; `concept` (144) has emoji of which neither picture nor name is
    in any other colour split; `style` and `style_concept` are line drawings of seen and of
    held-out concepts. Which emoji is in which split depends on `seed` and the names alone.

    Args:
        out: the folder to write; if it is complete already, nothing is drawn.
        size: side of the square images in pixels.
        seed: which emoji are held out.
        font_roots: folders to search for the fonts, before asking `fc-list`.
        unicode_root: where emoji-test.txt and CLDR's annotations lie.

    Returns:
        The content of dataset.json: the arguments, `splits` (pairs each) and further counts.

    Raises:
        UsageError: if the size or the seed cannot be.
        UserError: if no colour font is found, Pillow cannot join emoji, or `out` holds other
            things.
    """
    if not 8 <= size <= 1024:
        raise UsageError(f"--size {size}: wanted 8 to 1024 pixels.")
    if seed < 0:
        raise UsageError(f"--seed {seed}: wanted 0 or more.")
    own = (*SPLITS, "groups", "names.txt")
    folder = DatasetFolder(out, "emoji", {"size": size, "seed": seed}, own)
    if (found := folder.complete()) is not None:
        return found
    colour_font, drawing_font = load_colour_font(font_roots), load_drawing_font(font_roots)
    if drawing_font is None:
        print(
            f"no font of line drawings, so no splits style, style_concept. {INSTALL}",
            file=sys.stderr,
        )
    emoji = read_emoji(Path(unicode_root))
    folder.begin()
    colour, dropped = draw_colour(emoji, colour_font, size)
    split_of = split_emoji([one for one, _ in colour], seed)
    drawings = draw_lines([one for one, _ in colour], drawing_font, size, split_of)
    groups = list(dict.fromkeys(e.group for e in emoji if e.group and e.group not in _NO_CLASS))
    counts: dict[str, int] = {}
    for split in SPLITS:
        style = "drawing" if split.startswith("style") else "colour"
        pairs = drawings if style == "drawing" else colour
        of_split = {"style": "train", "style_concept": "concept"}.get(split, split)
        chosen = [(one, image) for one, image in pairs if split_of.get(one.text) == of_split]
        # In an order of its own, so that the first shard alone is a fair sample.
        chosen.sort(key=lambda pair: rank(seed, "order", pair[0].text))
        if chosen:
            write_shards(folder.path / split, _samples(chosen, style, groups))
        counts[split] = len(chosen)
    names = sorted({one.name for one, _ in colour if one.text in split_of})
    folder.write_lines("names.txt", names)
    if groups:
        folder.write_lines("groups/classnames.txt", map(_readable, groups))
        folder.write_lines("groups/zeroshot_classification_templates.txt", _TEMPLATES)
    left_out = len(colour) - len(split_of)  # tones of held-out concepts
    figures = {"names": len(names), "groups": len(groups), "tones_left_out": left_out, **dropped}
    return folder.finish({"splits": counts, **figures})


def read_emoji(unicode_root: Path) -> list[Emoji]:
    """Returns the fully qualified emoji in Unicode's order; without its files, what Python knows.

    Python knows names of single code points only: no groups, no keywords, no skin tones.
    """
    names, keywords = read_annotations(unicode_root / "cldr" / "common")
    if not names:
        print(f"{unicode_root}: no CLDR annotations, so no keywords. {INSTALL}", file=sys.stderr)
    path = unicode_root / "emoji" / "emoji-test.txt"
    if path.exists():
        found = list(_read_emoji_test(path.read_text(encoding="utf-8")))
    else:
        print(
            f"{path}: not found, so names come from Python's unicodedata, and there are no "
            f"groups and no skin tones. {INSTALL}",
            file=sys.stderr,
        )
        codes = (*range(0x203C, 0x3300), *range(0x1F000, 0x1FB00))
        symbols = [chr(code) for code in codes if unicodedata.category(chr(code)) == "So"]
        found = [(text, unicodedata.name(text).lower(), None, None) for text in symbols]
    named = [(text, names.get(bare(text), name), *rest) for text, name, *rest in found]
    toneless = {name for text, name, *_ in named if not _TONES & set(text)}
    emoji = []
    for text, name, group, subgroup in named:
        concept, tone = name, None
        if _TONES & set(text):
            concept, tone = _split_tone(name, toneless)
        words = tuple(keywords.get(bare(text), ()))
        emoji.append(Emoji(text, name, concept, tone, words, group, subgroup))
    return emoji


def split_emoji(emoji: Sequence[Emoji], seed: int) -> dict[str, str]:
    """Returns "train", "combination" or "concept" for each emoji's text.

    Tone variants of held-out concepts are in no split, so they are missing from the result. At
    most two tones of a concept are held out: the others, and the tone-less one, are trained.
    """
    plain = [one for one in emoji if one.skin_tone is None and one.group != "Flags"]
    plain.sort(key=lambda one: rank(seed, "concept", one.text))
    number = round(_HELD_OUT_CONCEPTS * len(plain))
    # By name too: a name must not be seen under another code point.
    held_out = {one.concept for one in plain[:number]}
    split_of = {
        one.text: "concept" if one.concept in held_out else "train"
        for one in emoji
        if one.skin_tone is None or one.concept not in held_out
    }
    toned = [one for one in emoji if sum(mark in _TONES for mark in one.text) == 1]
    wanted = round(_HELD_OUT_COMBINATIONS * len(toned))
    of_concept: Counter[str] = Counter()
    for one in sorted(toned, key=lambda one: rank(seed, "combination", one.text)):
        if one.text in split_of and of_concept[one.concept] < 2 and of_concept.total() < wanted:
            of_concept[one.concept] += 1
            split_of[one.text] = "combination"
    return split_of


def rank(seed: int, purpose: str, text: str) -> bytes:
    """A place in a shuffled order that no library version, and no further emoji, can change."""
    return hashlib.sha256(f"{seed}:{purpose}:{text}".encode()).digest()


def _split_tone(name: str, toneless: set[str]) -> tuple[str, str]:
    """Splits "woman: light skin tone, red hair" into "woman: red hair", "light skin tone"."""
    head, _, rest = name.partition(": ")
    parts = rest.split(", ")
    others = [part for part in parts if not part.endswith("skin tone")]
    concept = f"{head}: {', '.join(others)}" if others else head
    tone = ", ".join(part for part in parts if part.endswith("skin tone"))
    # "kiss: person, person, light skin tone, ..." is a variant of plain "kiss".
    return (concept if concept in toneless else head), tone


def _read_emoji_test(text: str) -> Iterator[tuple[str, str, str | None, str | None]]:
    group = subgroup = None
    for line in text.splitlines():
        if match := re.match(r"# (sub)?group: (.+)", line):
            if match[1]:
                subgroup = match[2].strip()
            else:
                group = match[2].strip()
        elif match := re.match(r"([0-9A-F ]+); fully-qualified +# \S+ E[\d.]+ (.+)", line):
            codes = match[1].split()
            yield "".join(chr(int(code, 16)) for code in codes), match[2].strip(), group, subgroup


def draw_colour(emoji: Sequence[Emoji], font: Font, size: int) -> tuple[Drawn, dict[str, int]]:
    """Draws all emoji that the font has; of equal pictures the first is kept."""
    drawn: Drawn = []
    seen: set[bytes] = set()
    missing = duplicates = 0
    # A font that is older than the list draws an unknown sequence as several glyphs in a row.
    widest = 1.2 * font.getlength("\U0001f600")
    with Progress("rendering emoji", len(emoji), "emoji") as progress:
        for one in emoji:
            image = draw_glyph(font, one.text, size)
            if is_blank(image) or font.getlength(one.text) > widest:
                missing += 1
            elif image.tobytes() in seen:
                duplicates += 1
            else:
                seen.add(image.tobytes())
                drawn.append((one, image))
            progress.advance()
    return drawn, {"missing_in_font": missing, "duplicates_dropped": duplicates}


def draw_lines(
    emoji: Sequence[Emoji], font: Font | None, size: int, split_of: dict[str, str]
) -> Drawn:
    """Draws what the black-and-white font has of the tone-less emoji of one code point."""
    if font is None:
        return []
    drawn: Drawn = []
    seen = {draw_glyph(font, _UNASSIGNED, size, trim=True).tobytes()}
    plain = [one for one in emoji if len(bare(one.text)) == 1 and one.text in split_of]
    with Progress("drawing in black and white", len(plain), "emoji") as progress:
        for one in plain:
            image = draw_glyph(font, bare(one.text), size, trim=True)
            if not is_blank(image) and image.tobytes() not in seen:
                seen.add(image.tobytes())
                drawn.append((one, image))
            progress.advance()
    return drawn


def _samples(pairs: Drawn, style: str, groups: Sequence[str]) -> Iterator[Sample]:
    for one, image in pairs:
        label = groups.index(one.group) if one.group in groups else None
        fields = {
            "codepoints": [f"{ord(mark):04X}" for mark in one.text],
            "emoji": one.text,
            "name": one.name,
            "keywords": list(one.keywords),
            "captions": _captions(one),
            "concept": one.concept,
            "style": style,
            "group": one.group,
            "subgroup": one.subgroup,
            "skin_tone": one.skin_tone,
            "label": label,
        }
        yield Sample(image, one.name, fields, label)


def _captions(one: Emoji) -> list[str]:
    """Returns the name, with keywords, with its groups; and the group alone, where there is one."""
    further = [word for word in one.keywords if not _words(word) <= _words(one.name)]
    captions = [one.name, ", ".join([one.name, *further])]
    if one.group:
        placed = f"{one.name}, {_readable(one.subgroup or '')}"
        captions += [placed, f"{placed}, {_readable(one.group)}", _readable(one.group)]
    return captions


def _readable(group: str) -> str:
    return group.replace("&", "and").replace("-", " ").lower()


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\s:,]+", text.lower()))
