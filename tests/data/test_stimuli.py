import argparse
import collections
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipjax.cli import data_emoji as command
from clipjax.config.errors import UsageError, UserError
from clipjax.data import emoji as emoji_module
from clipjax.data import stimuli as module
from clipjax.data.emoji import UNICODE_ROOT, Emoji, read_emoji
from clipjax.data.emoji_fonts import COLOUR_FONTS, DRAWING_FONTS, FONT_ROOTS, find_fonts
from clipjax.data.stimuli import Stimulus, make_concepts, make_stimuli
from clipjax.data.stimulus_files import StimulusFolder
from clipjax.data.word_pictures import WORD_FONTS

WANTED = {"cat", "sun", "moon"}
LOCALES = ("en", "de_CH", "ja")
ALL = ("colour", "drawing", "word", "caption", "speech")

# Writes its voice and what it was told to say where a .wav is asked for.
SPEAKER = """#!/bin/sh
read -r text
printf 'RIFF %s says %s' "$2 $4 $6" "$text" > "${10}"
"""


@pytest.fixture(scope="module")
def few():
    """All emoji of three keywords, and every hundredth; flags and tones among them."""
    for fonts in (COLOUR_FONTS, DRAWING_FONTS, WORD_FONTS):
        if next(find_fonts(FONT_ROOTS, fonts), None) is None:
            pytest.skip(f"no {fonts[0]}: apt-get install fonts-symbola fonts-noto-color-emoji")
    if not Path(UNICODE_ROOT, "cldr/common/annotations/en.xml").exists():
        pytest.skip("no CLDR: apt-get install unicode-cldr-core")
    if not Path(UNICODE_ROOT, "emoji/emoji-test.txt").exists():
        pytest.skip("no emoji-test.txt: apt-get install unicode-data")
    everyone = read_emoji(Path(UNICODE_ROOT))
    chosen = [one for one in everyone if WANTED & set(one.keywords) and one.skin_tone is None]
    return [*chosen, *(one for one in everyone[::100] if one not in chosen)]


def make(few, out, **arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_emoji", lambda _: few)
        patch.setenv("PATH", f"{out.parent}/bin:/usr/bin:/bin")
        program = out.parent / "bin" / "espeak-ng"
        program.parent.mkdir(exist_ok=True)
        program.write_text(SPEAKER)
        program.chmod(0o755)
        asked = {"facets": ALL, "locales": LOCALES, "size": 32, "views": 2} | arguments
        return make_stimuli(out, **asked)


@pytest.fixture(scope="module")
def made(few, tmp_path_factory):
    out = tmp_path_factory.mktemp("stimuli") / "out"
    return out, make(few, out)


@pytest.fixture(scope="module")
def read(made):
    folder = StimulusFolder(made[0])
    return {facet: list(folder.read(facet)) for facet in folder.counts}


def test_each_facet_has_its_samples_of_the_same_stimuli(made, read):
    photos = [one.stimulus for one in read["photo"]]
    assert len(photos) == len(set(photos)) == made[1]["stimuli"] > 40
    assert made[1]["facets"] == {facet: len(samples) for facet, samples in read.items()}
    assert list(read) == ["photo", "drawing", "word", "scrambled", "caption", "speech"]
    drawn = {one.stimulus for one in read["drawing"]}
    assert 24 < len(drawn) < len(photos)
    for facet in ("word", "speech"):
        assert [one.stimulus for one in read[facet]] == [id for id in photos for _ in range(2)]
    for facet in read:
        assert {one.stimulus for one in read[facet]} <= set(photos)
        views = [(one.stimulus, one.view) for one in read[facet]]
        assert len(views) == len(set(views))


def test_a_stimulus_belongs_to_the_same_concepts_in_every_facet(made, read):
    folder = StimulusFolder(made[0])
    of = {one.stimulus: (one.concepts, one.split) for one in read["photo"]}
    for facet, samples in read.items():
        for one in samples:
            assert (one.concepts, one.split) == of[one.stimulus], facet
    assert {one.id for one in folder.concepts} >= WANTED
    for concept in folder.concepts:
        assert set(concept.positives) == set(read) - {"scrambled"}
        for facet, ids in concept.positives.items():
            found = {one.stimulus for one in read[facet] if concept.id in one.concepts}
            assert set(ids) == found
            assert list(ids) == sorted(set(ids))
        assert len(set.intersection(*map(set, concept.positives.values()))) >= 8
    assert folder.controls == ("scrambled",)


def test_neither_skin_tones_nor_flags_are_stimuli(few, read):
    by_text = {one.text.replace("\ufe0f", ""): one for one in few}
    for one in read["photo"]:
        text = "".join(chr(int(code, 16)) for code in one.stimulus.split("-"))
        assert by_text[text].skin_tone is None
        assert by_text[text].group != "Flags"
        assert one.text == by_text[text].name
        assert set(one.concepts) >= WANTED & set(by_text[text].keywords)
    assert any(one.skin_tone for one in few)
    assert any(one.group == "Flags" for one in few)


def test_pictures_of_a_facet_are_of_its_kind(read):
    pixels = {
        facet: np.stack([np.asarray(Image.open(io.BytesIO(one.content))) for one in read[facet]])
        for facet in ("photo", "drawing", "word", "scrambled")
    }
    for facet, stacked in pixels.items():
        assert stacked.shape[1:] == (32, 32, 3), facet
    grey = (pixels["drawing"] == pixels["drawing"][..., :1]).all()
    assert grey
    assert not (pixels["photo"] == pixels["photo"][..., :1]).all()
    first, second = pixels["word"][::2], pixels["word"][1::2]
    assert (first != second).any(axis=(1, 2, 3)).all()
    # The control is written where the word was, as large and in the same colours.
    pairs = zip(read["word"], pixels["word"], strict=True)
    word = {(one.stimulus, one.view): picture for one, picture in pairs}
    for one, picture in zip(read["scrambled"], pixels["scrambled"], strict=True):
        other = word[one.stimulus, one.view]
        assert (picture != other).any()
        gap = np.abs(picture.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max()
        assert gap < 12, one.text
        for axis in (0, 1):
            starts = [ink_of(drawn).any(axis=1 - axis).argmax() for drawn in (picture, other)]
            assert abs(starts[0] - starts[1]) <= 3, one.text


def ink_of(picture):
    """Returns where a picture has not the colour that most of it has."""
    colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    return (picture != colours[counts.argmax()]).any(axis=2)


def test_scrambled_text_has_the_letters_of_the_word(read):
    word = {one.stimulus: one.text for one in read["word"]}
    known = {part for text in word.values() for part in text.lower().split()}
    repeated = 0
    for one in read["scrambled"]:
        assert one.text != word[one.stimulus]
        for part, other in zip(one.text.split(), word[one.stimulus].split(), strict=True):
            assert sorted(part) == sorted(other)
            repeated += part.lower() in known and len(part) > 3
    assert repeated == 0


def test_captions_are_in_every_language_that_names_the_stimulus(read):
    of = collections.defaultdict(dict)
    for one in read["caption"]:
        of[one.stimulus][one.locale] = one.text
    assert set(of["1F431"]) == set(LOCALES)
    assert of["1F431"]["en"] == "cat face"
    assert of["1F431"]["de_CH"] == "Katzengesicht"
    named = [one for one in read["photo"] if one.stimulus in of]
    assert len(named) > 0.8 * len(read["photo"])  # an older CLDR lacks the newest emoji
    assert all(of[one.stimulus]["en"] == one.text for one in named)


def test_speech_says_the_name_in_a_voice_of_its_own(read):
    said = collections.defaultdict(set)
    for one in read["speech"]:
        assert one.kind == "wav"
        head, _, text = one.content.decode().partition(" says ")
        assert text == one.text
        said[one.stimulus].add(head)
    assert sum(len(voices) == 2 for voices in said.values()) > 0.9 * len(said)


def test_splits_are_those_of_the_pairs_of_the_same_seed(few, made, read, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji_module, "read_emoji", lambda _: few)
        pairs = emoji_module.make_emoji(tmp_path / "out", size=32)
    held_out = {one.stimulus for one in read["photo"] if one.split == "concept"}
    assert 0 < len(held_out) == pairs["splits"]["concept"]
    names = {one.text for one in read["photo"] if one.split == "concept"}
    folder = tmp_path / "out" / "concept"
    stored = b"".join(path.read_bytes() for path in folder.glob("*.tar"))
    assert all(f'"name": "{name}"'.encode() in stored for name in names)


def test_a_second_run_gives_the_same_bytes(few, made, tmp_path):
    assert make(few, tmp_path / "again") == made[1]
    for path in (path for path in sorted(made[0].rglob("*")) if path.is_file()):
        if not path.name.endswith("_stats.json"):
            other = tmp_path / "again" / path.relative_to(made[0])
            assert path.read_bytes() == other.read_bytes(), path.name


def test_another_seed_draws_other_words(few, read, tmp_path):
    made = make(few, tmp_path / "other", facets=["word"], seed=1, views=1)
    assert made["facets"].keys() == {"word", "scrambled"}
    other = {one.stimulus: one.content for one in StimulusFolder(tmp_path / "other").read("word")}
    same = [one.content == other[one.stimulus] for one in read["word"] if one.view == 0]
    assert len(same) == len(other)
    assert not any(same)


def test_word_and_control_are_laid_out_together(few, tmp_path, monkeypatch):
    """One layout that suits both: else the control would be larger or elsewhere."""
    asked = collections.defaultdict(list)
    draw = module.WordPainter.draw

    def recorded(self, texts, key):
        asked[key].append(tuple(texts))
        return draw(self, texts, key)

    monkeypatch.setattr(module.WordPainter, "draw", recorded)
    make(few, tmp_path / "out", facets=["word"], views=1)
    pairs = [calls for calls in asked.values() if len(calls) == 2]
    assert len(pairs) > 40
    for word, control in pairs:
        assert word[0] != control[0]
        assert set(word) == set(control)


def test_without_espeak_speech_is_left_out_and_said(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "read_emoji", lambda _: few)
    monkeypatch.setattr(module.spoken, "find_speaker", lambda: None)
    made = make_stimuli(tmp_path / "out", facets=["speech", "caption"], size=32)
    assert set(made["facets"]) == {"caption"}
    assert "espeak-ng: not installed, so no speech. apt-get install" in capsys.readouterr().err
    with pytest.raises(UserError, match="espeak-ng: not installed"):
        make_stimuli(tmp_path / "other", facets=["speech"], size=32)


def test_the_command_writes_pairs_and_stimuli(few, tmp_path, monkeypatch, capsys):
    for one in (module, emoji_module):
        monkeypatch.setattr(one, "read_emoji", lambda _: few)
    parser = argparse.ArgumentParser()
    command.configure(parser)
    flags = ["--out", str(tmp_path), "--size", "32", "--facets", "colour, caption"]
    made = command.run(parser.parse_args([*flags, "--locales", "ja"]))
    assert json.loads((tmp_path / "stimuli/dataset.json").read_text()) == made["stimuli"]
    assert json.loads((tmp_path / "dataset.json").read_text())["splits"] == made["splits"]
    assert f"{tmp_path}/stimuli: photo " in capsys.readouterr().out
    for more in (["--views", "2"], ["--locales", "en"]):
        args = parser.parse_args(["--out", str(tmp_path / "other"), *more])
        with pytest.raises(UsageError, match="is of --facets, which is missing"):
            command.run(args)


def faces(keywords):
    return {
        facet: [
            Stimulus(name, Emoji(name, name, name, keywords=words), "train")
            for name, words in keywords.items()
            if facet == "photo" or name != "s0"
        ]
        for facet in ("photo", "drawing")
    }


def test_keywords_of_the_same_stimuli_are_one_concept():
    keywords = {f"s{n}": ("Cat", "pet") if n < 12 else ("odd",) for n in range(20)}
    cat, odd = make_concepts(faces(keywords))
    assert (cat.id, cat.words) == ("cat", ("cat", "pet"))
    assert len(cat.positives["photo"]) == 12
    assert len(cat.positives["drawing"]) == 11  # s0 has none, and does not count
    assert odd.positives["drawing"] == tuple(f"s{n}" for n in range(12, 20))
    assert [one.id for one in make_concepts(faces(keywords), least=9)] == ["cat"]
    with pytest.raises(UserError, match="no keyword has 12 stimuli with each of photo, drawing"):
        make_concepts(faces(keywords), least=12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"facets": ["color"]}, r"no facet 'color'\. Did you mean 'colour'"),
        ({"facets": []}, "wanted one or more, each once"),
        ({"facets": ["word", "word"]}, "--facets word,word: wanted one or more, each once"),
        ({"size": 8}, "--size 8: wanted 16"),
        ({"seed": -1}, "--seed -1: wanted 0"),
        ({"views": 0}, "--views 0: wanted 1 to 100"),
        ({"locales": []}, "--locales is empty"),
        ({"locales": ["de", "jp"]}, "'jp' has no annotations"),
    ],
)
def test_refuses_what_cannot_be(tmp_path, arguments, message):
    annotations = tmp_path / "cldr/common/annotations"
    annotations.mkdir(parents=True)
    for locale in ("en", "de", "ja"):
        (annotations / f"{locale}.xml").write_text("<ldml/>")
    with pytest.raises(UsageError, match=message):
        make_stimuli(tmp_path / "out", unicode_root=str(tmp_path), **arguments)
    assert not (tmp_path / "out").exists()


def test_without_cldr_or_a_drawing_font_it_says_what_to_install(few, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no CLDR annotations, so no concepts. apt-get install"):
        make_stimuli(tmp_path / "out", unicode_root=str(tmp_path))
    monkeypatch.setattr(module, "load_drawing_font", lambda _: None)
    with pytest.raises(UserError, match=r"no font of line drawings .* or leave drawing out"):
        make_stimuli(tmp_path / "out")
