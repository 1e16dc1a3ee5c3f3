"""Makes image-text pairs of the emoji of a system's fonts: about 3,600, without a download."""

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFont, features

from clipjax.config.errors import UsageError, UserError
from clipjax.core.progress import Progress
from clipjax.data.writers import DatasetFolder, Sample, write_shards

FONT_ROOTS = (
    "/usr/share/fonts/truetype/noto",
    "/usr/share/fonts/truetype/ancient-scripts",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
)
UNICODE_ROOT = "/usr/share/unicode"
SPLITS = ("train", "combination", "concept", "style", "style_concept")
INSTALL = "apt-get install fonts-noto-color-emoji fonts-symbola unicode-cldr-core unicode-data"

_COLOUR_FONTS = ("NotoColorEmoji.ttf",)
_DRAWING_FONTS = ("Symbola_hint.ttf", "Symbola.ttf", "Symbola.otf")
_COLOUR_PIXELS = 109  # the only size that the bitmaps of NotoColorEmoji have
_DRAWING_PIXELS = 128
_MARGIN = 0.04  # of the larger side, on each side
_UNASSIGNED = "\u0378"  # no font has it, so it is drawn as the box for missing glyphs
_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"
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
    colour_font, drawing_font = _load_fonts(font_roots)
    emoji = read_emoji(Path(unicode_root))
    folder.begin()
    colour, dropped = _draw_colour(emoji, colour_font, size)
    split_of = split_emoji([one for one, _ in colour], seed)
    drawings = _draw_lines([one for one, _ in colour], drawing_font, size, split_of)
    groups = list(dict.fromkeys(e.group for e in emoji if e.group and e.group not in _NO_CLASS))
    counts: dict[str, int] = {}
    for split in SPLITS:
        style = "drawing" if split.startswith("style") else "colour"
        pairs = drawings if style == "drawing" else colour
        of_split = {"style": "train", "style_concept": "concept"}.get(split, split)
        chosen = [(one, image) for one, image in pairs if split_of.get(one.text) == of_split]
        # In an order of its own, so that the first shard alone is a fair sample.
        chosen.sort(key=lambda pair: _rank(seed, "order", pair[0].text))
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
    names, keywords = _read_annotations(unicode_root / "cldr" / "common")
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
    named = [(text, names.get(_bare(text), name), *rest) for text, name, *rest in found]
    toneless = {name for text, name, *_ in named if not _TONES & set(text)}
    emoji = []
    for text, name, group, subgroup in named:
        concept, tone = name, None
        if _TONES & set(text):
            concept, tone = _split_tone(name, toneless)
        words = tuple(keywords.get(_bare(text), ()))
        emoji.append(Emoji(text, name, concept, tone, words, group, subgroup))
    return emoji


def split_emoji(emoji: Sequence[Emoji], seed: int) -> dict[str, str]:
    """Returns "train", "combination" or "concept" for each emoji's text.

    Tone variants of held-out concepts are in no split, so they are missing from the result. At
    most two tones of a concept are held out: the others, and the tone-less one, are trained.
    """
    plain = [one for one in emoji if one.skin_tone is None and one.group != "Flags"]
    plain.sort(key=lambda one: _rank(seed, "concept", one.text))
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
    for one in sorted(toned, key=lambda one: _rank(seed, "combination", one.text)):
        if one.text in split_of and of_concept[one.concept] < 2 and of_concept.total() < wanted:
            of_concept[one.concept] += 1
            split_of[one.text] = "combination"
    return split_of


def _rank(seed: int, purpose: str, text: str) -> bytes:
    """A place in a shuffled order that no library version, and no further emoji, can change."""
    return hashlib.sha256(f"{seed}:{purpose}:{text}".encode()).digest()


def _bare(text: str) -> str:
    """CLDR lists emoji without the mark that asks for the coloured form."""
    return text.replace(_EMOJI_STYLE, "")


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


def _read_annotations(common: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Returns names and keywords by emoji without style marks; empty where CLDR is missing."""
    names: dict[str, str] = {}
    keywords: dict[str, list[str]] = {}
    for path in (common / kind / "en.xml" for kind in ("annotations", "annotationsDerived")):
        if not path.exists():
            continue
        root = xml.etree.ElementTree.parse(path).getroot()  # noqa: S314 (a file of the system)
        for entry in root.iter("annotation"):
            text, words = _bare(entry.get("cp", "")), entry.text or ""
            if entry.get("type") == "tts":
                names[text] = words.strip()
            else:
                keywords[text] = [word.strip() for word in words.split("|") if word.strip()]
    return names, keywords


_Font = ImageFont.FreeTypeFont
_Drawn = list[tuple[Emoji, Image.Image]]


def _load_fonts(roots: Sequence[str]) -> tuple[_Font, _Font | None]:
    """Returns the colour font and, if there is one, the font of line drawings."""
    if not features.check("raqm"):
        raise UserError(
            "Pillow: has no Raqm text layout, wanted for emoji of several code points. Install "
            "FriBiDi, which Pillow's wheels load for it: apt-get install libfribidi0"
        )
    for path in _find_fonts(roots, _COLOUR_FONTS):
        try:
            colour = ImageFont.truetype(path, _COLOUR_PIXELS, layout_engine=ImageFont.Layout.RAQM)
        except OSError:  # no bitmaps of this size: another build of the font
            continue
        if _is_coloured(_draw(colour, "\U0001f600", 32)):
            break
    else:
        raise UserError(
            f"no colour emoji font: looked for {', '.join(_COLOUR_FONTS)} (the build with bitmaps) "
            f"in {', '.join(roots)} and in fc-list. Install it: {INSTALL}. "
            "`clipjax data digits` makes pairs that need no font."
        )
    for path in _find_fonts(roots, _DRAWING_FONTS):
        return colour, ImageFont.truetype(path, _DRAWING_PIXELS)
    print(
        f"no font of line drawings, so no splits style, style_concept. {INSTALL}", file=sys.stderr
    )
    return colour, None


def _find_fonts(roots: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    for root in roots:
        for name in names:
            yield from map(str, sorted(Path(root).expanduser().rglob(name)))
    if shutil.which("fc-list"):
        listing = subprocess.run(["fc-list", ":", "file"], capture_output=True, text=True)
        for line in sorted(listing.stdout.splitlines()):
            path = line.strip().removesuffix(":")
            if Path(path).name in names:
                yield path


def _is_coloured(image: Image.Image) -> bool:
    red, green, blue = image.split()
    return ImageChops.difference(red, blue).getbbox() is not None or red != green


def _is_blank(image: Image.Image) -> bool:
    return ImageChops.invert(image).getbbox() is None


def _draw(font: _Font, text: str, size: int, *, trim: bool = False) -> Image.Image:
    """Draws on white at the font's own size, centres, and scales to size x size pixels.

    With `trim` the ink is fitted into the square; without, the box that all glyphs of a bitmap
    font share, so that a small square stays smaller than a large one.
    """
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    native = Image.new("RGB", (max(right - left, 1), max(bottom - top, 1)), "white")
    ImageDraw.Draw(native).text((-left, -top), text, "black", font, embedded_color=True)
    if trim:
        native = native.crop(ImageChops.invert(native).getbbox())
    side = round(max(native.size) * (1 + 2 * _MARGIN))
    square = Image.new("RGB", (side, side), "white")
    square.paste(native, ((side - native.width) // 2, (side - native.height) // 2))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def _draw_colour(emoji: Sequence[Emoji], font: _Font, size: int) -> tuple[_Drawn, dict[str, int]]:
    """Draws all emoji that the font has; of equal pictures the first is kept."""
    drawn: _Drawn = []
    seen: set[bytes] = set()
    missing = duplicates = 0
    # A font that is older than the list draws an unknown sequence as several glyphs in a row.
    widest = 1.2 * font.getlength("\U0001f600")
    with Progress("rendering emoji", len(emoji), "emoji") as progress:
        for one in emoji:
            image = _draw(font, one.text, size)
            if _is_blank(image) or font.getlength(one.text) > widest:
                missing += 1
            elif image.tobytes() in seen:
                duplicates += 1
            else:
                seen.add(image.tobytes())
                drawn.append((one, image))
            progress.advance()
    return drawn, {"missing_in_font": missing, "duplicates_dropped": duplicates}


def _draw_lines(
    emoji: Sequence[Emoji], font: _Font | None, size: int, split_of: dict[str, str]
) -> _Drawn:
    """Draws what the black-and-white font has of the tone-less emoji of one code point."""
    if font is None:
        return []
    drawn: _Drawn = []
    seen = {_draw(font, _UNASSIGNED, size, trim=True).tobytes()}
    plain = [one for one in emoji if len(_bare(one.text)) == 1 and one.text in split_of]
    with Progress("drawing in black and white", len(plain), "emoji") as progress:
        for one in plain:
            image = _draw(font, _bare(one.text), size, trim=True)
            if not _is_blank(image) and image.tobytes() not in seen:
                seen.add(image.tobytes())
                drawn.append((one, image))
            progress.advance()
    return drawn


def _samples(pairs: _Drawn, style: str, groups: Sequence[str]) -> Iterator[Sample]:
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
