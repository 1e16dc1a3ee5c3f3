"""The pictures that come with the package are those they claim to be, and can be made again.

CLIPJAX_UPDATE_GOLDEN=1 writes them anew, where the fonts are.
"""

import os
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFilter

from clipjax.config.errors import UserError
from clipjax.data.annotations import bare
from clipjax.data.concepts import ConceptIndex
from clipjax.data.emoji import UNICODE_ROOT, rank, read_emoji
from clipjax.data.emoji_fonts import FONT_ROOTS, draw_glyph, load_colour_font
from clipjax.data.emoji_world import (
    FILE,
    GREY_LEVELS,
    PHOTO_LEVELS,
    from_levels,
    load_emoji_world,
    to_levels,
)
from clipjax.data.word_pictures import WordPainter, scrambled
from clipjax.data.words import STOP_WORDS

PATH = Path(str(resources.files("clipjax.data") / FILE))
CONCEPTS = [
    "arrow",
    "ball",
    "bird",
    "car",
    "cat",
    "clock",
    "cloud",
    "computer",
    "drink",
    "eye",
    "face",
    "flower",
    "fruit",
    "hand",
    "mail",
    "money",
    "moon",
    "mountain",
    "music",
    "phone",
    "snow",
    "star",
    "sun",
    "tool",
]
HELD_OUT, LEAST_HELD_OUT, SIDE, LARGE = 0.2, 2, 32, 128
SHOWN_VIEWS, TRAINED_VIEWS, DRAWN_VIEWS = 8, 40, 320  # of a word
LINE = 40  # difference between neighbours, of 255, that is an edge


def keywords(one):
    return {word.lower() for word in one.keywords}


def edge_map(picture):
    """Dark where any channel of a large picture changes, scaled down."""
    red, green, blue = picture.filter(ImageFilter.FIND_EDGES).split()
    found = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    lines = found.point(lambda value: 255 if value > LINE else 0)
    # The filter copies the outermost pixels instead of looking at them.
    inside = Image.new("L", lines.size)
    inside.paste(lines.crop((1, 1, LARGE - 1, LARGE - 1)), (1, 1))
    thick = inside.filter(ImageFilter.MaxFilter(3))
    return ImageChops.invert(thick.resize((SIDE, SIDE), Image.Resampling.BOX))


def held_out(chosen):
    """Returns which emoji are kept from training: of each concept a fifth and at least two."""
    out = set()
    for name in sorted(CONCEPTS, key=lambda name: sum(name in keywords(e) for e in chosen)):
        of = [one for one in chosen if name in keywords(one)]
        of.sort(key=lambda one: (one.text not in out, rank(0, "held out", one.text)))
        out |= {one.text for one in of[: max(round(HELD_OUT * len(of)), LEAST_HELD_OUT)]}
    return np.array([one.text in out for one in chosen])


def build():
    """Returns the arrays of the file, drawn with the fonts of this system."""
    try:
        font = load_colour_font(FONT_ROOTS)
        painter = WordPainter(FONT_ROOTS, SIDE, 0, smallest=0.9, spread=0.25)
    except UserError as error:
        pytest.skip(str(error))
    if not Path(UNICODE_ROOT, "cldr/common/annotations/en.xml").exists():
        pytest.skip("no CLDR: apt-get install unicode-cldr-core")
    emoji = [one for one in read_emoji(Path(UNICODE_ROOT)) if len(bare(one.text)) == 1]
    if not all(any(name in keywords(one) for one in emoji) for name in CONCEPTS):
        pytest.skip("other keywords: apt-get install unicode-data")
    other = [scrambled(name, 0, STOP_WORDS | set(CONCEPTS)) for name in CONCEPTS]
    drawn = [
        [painter.masks(pair, f"{pair[0]}:{view}") for view in range(DRAWN_VIEWS)]
        for pair in zip(CONCEPTS, other, strict=True)
    ]
    masks = to_levels(np.array([[[np.asarray(m) for m in v] for v in of] for of in drawn]), 8)
    words, shown = masks[:, :, 0], masks[:, :SHOWN_VIEWS]
    trained = [
        [mask for mask in of if not (mask == known[:, 0]).all(axis=(1, 2)).any()][:TRAINED_VIEWS]
        for of, known in zip(words, shown, strict=True)
    ]
    chosen = [one for one in emoji if not keywords(one).isdisjoint(CONCEPTS)]
    large = [draw_glyph(font, one.text, LARGE) for one in chosen]
    small = [picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for picture in large]
    captions = [
        "\n".join(dict.fromkeys([one.name, ", ".join(dict.fromkeys([one.name, *one.keywords]))]))
        for one in chosen
    ]
    return {
        "stimuli": np.array(["-".join(f"{ord(m):04X}" for m in bare(e.text)) for e in chosen]),
        "captions": np.array(captions),
        "labels": np.array([[name in keywords(one) for name in CONCEPTS] for one in chosen]),
        "photo": to_levels(np.stack([np.asarray(picture) for picture in small]), PHOTO_LEVELS),
        "edges": to_levels(np.stack([np.asarray(edge_map(p)) for p in large]), GREY_LEVELS),
        "concepts": np.array(CONCEPTS),
        "held_out": held_out(chosen),
        "words": shown[:, :, 0],
        "scrambled": shown[:, :, 1],
        "scrambled_words": np.array(other),
        "trained_words": np.array(trained),
    }


def test_the_file_can_be_made_again():
    """Other versions of font and Pillow draw a few pixels otherwise: most agree nearly."""
    made = build()
    if os.environ.get("CLIPJAX_UPDATE_GOLDEN"):
        np.savez_compressed(PATH, **made)
    with np.load(PATH, allow_pickle=False) as stored:
        assert set(stored.files) == set(made)
        if stored["stimuli"].tolist() != made["stimuli"].tolist():
            pytest.skip("another version of the Unicode data")
        for name, levels in (("photo", PHOTO_LEVELS), ("edges", GREY_LEVELS), ("words", 8)):
            gap = np.abs(stored[name].astype(int) - made[name]).reshape(len(made[name]), -1)
            assert np.median(gap.mean(axis=1)) < levels / 16, name
        assert stored["scrambled_words"].tolist() == made["scrambled_words"].tolist()


def test_the_file_stays_small():
    assert PATH.stat().st_size < 500_000


def test_each_concept_has_enough_stimuli_in_both_halves():
    world = load_emoji_world()
    assert [one.id for one in world.concepts] == CONCEPTS
    count = len(world.stimuli)
    assert len(set(world.stimuli)) == count > 150
    assert world.photo.shape == (count, 32, 32, 3)
    assert world.labels.shape == (count, len(CONCEPTS))
    assert (world.labels.sum(axis=0) >= 8).all()
    assert (world.labels[~world.held_out].sum(axis=0) >= 5).all()
    assert (world.labels[world.held_out].sum(axis=0) >= 2).all()
    assert world.labels.any(axis=1).all()
    assert 0.1 < world.held_out.mean() < 0.35


def test_labels_positives_and_captions_agree():
    world = load_emoji_world()
    index = ConceptIndex(world.concepts)
    for number, one in enumerate(world.concepts):
        ids = {world.stimuli[i] for i in np.flatnonzero(world.labels[:, number])}
        for facet in ("photo", "edges", "caption"):
            assert set(one.positives[facet]) == ids
        assert one.positives["word"] == (f"word:{one.id}",)
    for lines, row in zip(world.captions, world.labels, strict=True):
        assert lines[0]
        assert len(set(lines)) == len(lines)
        assert set(np.flatnonzero(row)) <= set(index.of(lines[-1]))
    named = dict(zip(world.stimuli, world.captions, strict=True))
    assert named["1F431"][0] == "cat face"


def test_words_to_train_on_are_elsewhere():
    world = load_emoji_world()
    shown = {mask.tobytes() for mask in world.words.reshape(-1, 32, 32)}
    trained = [mask.tobytes() for mask in world.trained_words.reshape(-1, 32, 32)]
    assert len(trained) == 24 * TRAINED_VIEWS
    assert not shown & set(trained)


def test_pictures_differ_and_edges_are_dark_lines_on_white():
    world = load_emoji_world()
    for pictures in (world.photo, world.edges):
        assert len({picture.tobytes() for picture in pictures}) == len(pictures)
        assert pictures.min() == 0
        assert pictures.max() == 255
    assert (world.edge_pictures == world.edges[..., None]).all()
    share = (world.edges < 128).mean(axis=(1, 2))
    assert share.min() > 0.02
    assert np.median(share) < 0.5
    border = np.concatenate([world.edges[:, 0], world.edges[:, :, 0]], axis=1)
    assert np.median(border) == 255


def test_words_and_their_scrambled_letters_have_as_much_ink_at_the_same_place():
    world = load_emoji_world()
    assert world.words.shape == world.scrambled.shape == (24, SHOWN_VIEWS, 32, 32)
    assert (world.words != world.scrambled).any(axis=(2, 3)).all()
    ink = [masks.sum(axis=(2, 3), dtype=float) for masks in (world.words, world.scrambled)]
    assert np.abs(ink[0] / ink[1] - 1).mean() < 0.06
    assert np.corrcoef(ink[0].ravel(), ink[1].ravel())[0, 1] > 0.95
    for concept, other in zip(world.concepts, world.scrambled_words, strict=True):
        assert sorted(other) == sorted(concept.id) != list(concept.id)
        assert other != concept.id


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_colours_follow_from_the_seed_and_are_those_of_the_control(seed):
    world = load_emoji_world()
    drawn = world.word_pictures(seed)
    assert np.array_equal(drawn, world.word_pictures(seed))
    assert not np.array_equal(drawn, world.word_pictures(seed + 1))
    control = world.word_pictures(seed, scrambled=True)
    paper = world.words == 0
    both = paper & (world.scrambled == 0)
    assert (drawn[both] == control[both]).all()
    pairs = zip(drawn.reshape(-1, 32, 32, 3), world.words.reshape(-1, 32, 32), strict=True)
    for picture, mask in pairs:
        assert len(np.unique(picture[mask == 0], axis=0)) == 1
        assert (picture[mask > 140] != picture[mask == 0][0]).any()


def test_nobody_can_change_what_others_share():
    world = load_emoji_world()
    assert world is load_emoji_world()
    with pytest.raises(ValueError, match="read-only"):
        world.photo[0] = 0


@given(st.integers(2, 64))
def test_levels_come_back_and_are_the_nearest(levels):
    numbers = np.arange(levels, dtype=np.uint8)
    assert np.array_equal(to_levels(from_levels(numbers, levels), levels), numbers)
    pixels = np.arange(256, dtype=np.uint8)
    back = from_levels(to_levels(pixels, levels), levels).astype(int)
    assert np.abs(back - pixels).max() <= 255 / (levels - 1) / 2 + 0.5
