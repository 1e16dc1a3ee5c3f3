import argparse
import collections
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipjax.cli import data_emoji as command
from clipjax.config.errors import UsageError, UserError
from clipjax.data import emoji as module
from clipjax.data.emoji import SPLITS, UNICODE_ROOT, Emoji, make_emoji, split_emoji
from clipjax.data.emoji_fonts import COLOUR_FONTS, FONT_ROOTS, features, find_fonts

COLOUR = ("train", "combination", "concept")
DRAWN = ("style", "style_concept")
COUNTED = {"train": 3079, "combination": 223, "concept": 144, "style": 1032, "style_concept": 108}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    if next(find_fonts(FONT_ROOTS, COLOUR_FONTS), None) is None:
        pytest.skip("no colour emoji font: apt-get install fonts-noto-color-emoji")
    if not (module.Path(UNICODE_ROOT) / "emoji/emoji-test.txt").exists():
        pytest.skip("no emoji-test.txt: apt-get install unicode-data")
    out = tmp_path_factory.mktemp("emoji") / "out"
    return out, make_emoji(out, size=32)


@pytest.fixture(scope="session")
def pairs(made):
    return {split: read(made[0] / split) for split in SPLITS}


def read(folder):
    out = []
    for path in sorted(folder.glob("*.tar")):
        by_key = collections.defaultdict(dict)
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                by_key[key][ending] = tar.extractfile(member).read()
        assert list(by_key) == [f"{path.stem}{i:04d}" for i in range(len(by_key))]
        stats = json.loads((folder / f"{path.stem}_stats.json").read_text())
        assert stats["count"] == stats["successes"] == len(by_key)
        for key, pair in by_key.items():
            metadata = json.loads(pair["json"])
            assert metadata["key"] == key
            pixels = np.asarray(Image.open(io.BytesIO(pair["png"])))
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            label = int(pair["cls"]) if "cls" in pair else None
            text = pair["txt"].decode()
            out.append({**metadata, "text": text, "cls": label, "pixels": pixels, "hash": digest})
    return out


def test_counts_are_those_of_the_files_and_near_the_measured_ones(made, pairs):
    assert made[1]["splits"] == {split: len(pairs[split]) for split in SPLITS}
    assert json.loads((made[0] / "dataset.json").read_text()) == made[1]
    for split in COLOUR:  # other releases of Unicode add a few dozen a year
        assert abs(made[1]["splits"][split] - COUNTED[split]) <= 0.1 * COUNTED[split], split
    if pairs["style"]:
        for split in DRAWN:
            assert abs(made[1]["splits"][split] - COUNTED[split]) <= 0.2 * COUNTED[split], split


def test_held_out_concepts_are_in_no_other_colour_split(pairs):
    held_out = {one["concept"] for one in pairs["concept"]}
    assert all(one["skin_tone"] is None for one in pairs["concept"])
    assert all(one["group"] != "Flags" for one in pairs["concept"])
    for split in ("train", "combination", "style"):
        for one in pairs[split]:
            assert one["concept"] not in held_out
            assert one["name"] not in held_out
    assert {one["concept"] for one in pairs["style_concept"]} <= held_out


def test_held_out_combinations_are_new_tones_of_trained_concepts(pairs):
    trained = collections.defaultdict(set)
    for one in pairs["train"]:
        trained[one["concept"]].add(one["skin_tone"])
    for one in pairs["combination"]:
        assert one["skin_tone"].endswith("skin tone")
        assert one["skin_tone"] not in trained[one["concept"]]
        assert None in trained[one["concept"]]
        assert len(trained[one["concept"]]) >= 3


def test_no_caption_and_no_picture_of_a_held_out_split_is_in_train(pairs):
    captions = {text for one in pairs["train"] for text in (one["text"], *one["captions"])}
    hashes = {one["hash"] for one in pairs["train"]}
    for split in ("combination", "concept", "style_concept"):
        assert captions.isdisjoint(one["text"] for one in pairs[split]), split
        assert hashes.isdisjoint(one["hash"] for one in pairs[split]), split


def test_no_picture_occurs_twice(pairs):
    for splits in (COLOUR, DRAWN):
        of_style = [one["hash"] for split in splits for one in pairs[split]]
        assert len(of_style) == len(set(of_style))


def test_drawings_of_style_are_of_trained_names(pairs):
    trained = {one["name"] for one in pairs["train"]}
    assert {one["name"] for one in pairs["style"]} <= trained
    for split in SPLITS:
        expected = "drawing" if split in DRAWN else "colour"
        assert {one["style"] for one in pairs[split]} <= {expected}


def test_captions_are_names_and_keywords_do_not_repeat_them(pairs):
    walking = "woman walking: medium skin tone"
    by_name = {one["name"]: one for split in COLOUR for one in pairs[split]}
    for one in by_name.values():
        name, long, *placed = one["captions"]
        assert not placed or placed[0].startswith(name + ", ")
        assert not placed or placed[1] == f"{placed[0]}, {placed[2]}"
        assert one["text"] == one["caption"] == one["name"] == name.strip() != ""
        assert long == name or long.startswith(name + ", ")
        assert name not in long[len(name) :].split(", ")
        assert one["codepoints"] == [f"{ord(mark):04X}" for mark in one["emoji"]]
    if walking in by_name:
        assert by_name[walking]["concept"] == "woman walking"
        assert by_name[walking]["skin_tone"] == "medium skin tone"
    assert sum(bool(one["keywords"]) for one in by_name.values()) > 0.9 * len(by_name)


def test_labels_point_into_the_classnames(made, pairs):
    classes = (made[0] / "groups/classnames.txt").read_text().splitlines()
    templates = (made[0] / "groups/zeroshot_classification_templates.txt").read_text()
    assert len(classes) == made[1]["groups"] == 8
    assert classes[0] == "smileys and emotion"
    assert all("{c}" in line for line in templates.splitlines())
    for one in (one for of_split in pairs.values() for one in of_split):
        assert one["cls"] == one["label"]
        if one["group"] == "Flags":
            assert one["cls"] is None
        else:
            assert classes[one["cls"]] == one["group"].replace("&", "and").lower()


def test_names_are_all_those_of_the_colour_splits(made, pairs):
    names = (made[0] / "names.txt").read_text().splitlines()
    assert len(set(names)) == len(names) == made[1]["names"]
    assert set(names) == {one["name"] for split in COLOUR for one in pairs[split]}


def test_pictures_are_centred_on_white_and_in_colour(pairs):
    for one in (one for split in COLOUR for one in pairs[split]):
        assert one["pixels"].shape == (32, 32, 3)
    face = next(one for s in COLOUR for one in pairs[s] if one["name"] == "grinning face")
    red, _, blue = face["pixels"][16, 4].tolist()
    assert red > 200 > 120 > blue
    assert face["pixels"][0].min() == face["pixels"][-1].min() == 255
    for one in (one for split in DRAWN for one in pairs[split]):
        for axis in np.nonzero(one["pixels"].min(axis=2) < 255):
            assert abs(axis.min() - (31 - axis.max())) <= 2, one["name"]


@pytest.fixture
def few(made, monkeypatch):
    """Every tenth emoji of the list, of all groups and with tones: (folder, summary) of them."""
    some = module.read_emoji(module.Path(UNICODE_ROOT))[::10]
    monkeypatch.setattr(module, "read_emoji", lambda _: some)
    out = made[0].parent / "few"
    return out, make_emoji(out, size=32)


def test_a_second_run_gives_the_same_bytes_and_a_third_nothing(few, tmp_path, capsys):
    capsys.readouterr()
    parser = argparse.ArgumentParser()
    command.configure(parser)
    args = parser.parse_args(["--out", str(tmp_path / "again"), "--size", "32"])
    assert command.run(args) == few[1]
    assert sum(few[1]["splits"].values()) > 300
    for path in (path for path in sorted(few[0].rglob("*")) if path.is_file()):
        if not path.name.endswith("_stats.json"):
            other = tmp_path / "again" / path.relative_to(few[0])
            assert path.read_bytes() == other.read_bytes(), path.name
    assert "rendering emoji: 366" in capsys.readouterr().err.replace("366/", "")
    assert command.run(args) == few[1]
    assert capsys.readouterr().err == f"{tmp_path / 'again'}: already complete\n"


def test_an_interrupted_run_never_looks_complete(made, tmp_path, monkeypatch):
    def interrupted(directory, samples, **options):
        if directory.name == "concept":
            samples = raising(samples)
        return module_write_shards(directory, samples, **options)

    def raising(samples):
        yield next(samples)
        raise KeyboardInterrupt

    few = module.read_emoji(module.Path(UNICODE_ROOT))[:60]
    monkeypatch.setattr(module, "read_emoji", lambda _: few)
    module_write_shards = module.write_shards
    monkeypatch.setattr(module, "write_shards", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_emoji(tmp_path, size=32)
    assert (tmp_path / "dataset.json.partial").exists()
    assert not (tmp_path / "dataset.json").exists()
    assert not list((tmp_path / "concept").iterdir())
    monkeypatch.setattr(module, "write_shards", module_write_shards)
    make_emoji(tmp_path, size=32)
    assert (tmp_path / "dataset.json").exists()
    assert not (tmp_path / "dataset.json.partial").exists()


def test_without_unicodes_files_names_come_from_python(made, tmp_path, capsys):
    counts = make_emoji(tmp_path / "out", size=32, unicode_root=str(tmp_path / "none"))
    told = capsys.readouterr().err
    assert "no CLDR annotations, so no keywords" in told
    assert "names come from Python's unicodedata" in told
    assert counts["splits"]["train"] > 1000
    assert counts["groups"] == counts["splits"]["combination"] == 0
    assert not (tmp_path / "out/groups").exists()
    pairs = read(tmp_path / "out/train")
    assert {(one["cls"], one["group"], *one["keywords"]) for one in pairs} == {(None, None)}
    assert "grinning face" in (tmp_path / "out/names.txt").read_text().splitlines()


def test_without_a_font_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no fc-list
    with pytest.raises(UserError, match="no colour emoji font") as caught:
        make_emoji(tmp_path / "out", font_roots=[str(tmp_path)])
    assert (
        "apt-get install fonts-noto-color-emoji fonts-symbola unicode-cldr-core unicode-data"
        in str(caught.value)
    )
    assert "`clipjax data digits`" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_raqm_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: feature != "raqm")
    with pytest.raises(UserError, match=r"no Raqm .*apt-get install libfribidi0"):
        make_emoji(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"size": 4}, "--size 4: wanted 8 to 1024 pixels"), ({"seed": -1}, "--seed -1: wanted 0")],
)
def test_refuses_what_cannot_be(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        make_emoji(tmp_path / "out", **arguments)


def test_another_seed_holds_out_others():
    emoji = [Emoji(chr(0x1F600 + i), f"face {i}", f"face {i}") for i in range(100)]
    splits = [split_emoji(emoji, seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    assert collections.Counter(splits[0].values()) == {"train": 91, "concept": 9}


def test_tones_of_held_out_concepts_are_in_no_split():
    tone = chr(0x1F3FD)
    plain = [Emoji(chr(0x1F600 + i), f"face {i}", f"face {i}") for i in range(100)]
    toned = [Emoji(e.text + tone, f"{e.name}: medium", e.name, "medium") for e in plain]
    split_of = split_emoji([*plain, *toned], seed=0)
    for one, variant in zip(plain, toned, strict=True):
        assert (variant.text in split_of) == (split_of[one.text] == "train")
    assert list(split_of.values()).count("combination") == 15


def test_tone_and_concept_are_told_apart():
    toneless = {"woman: red hair", "kiss", "waving hand"}
    assert [
        module._split_tone(name, toneless)
        for name in (
            "woman: light skin tone, red hair",
            "kiss: person, person, light skin tone, dark skin tone",
            "waving hand: medium-dark skin tone",
        )
    ] == [
        ("woman: red hair", "light skin tone"),
        ("kiss", "light skin tone, dark skin tone"),
        ("waving hand", "medium-dark skin tone"),
    ]
