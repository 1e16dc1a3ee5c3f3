"""What `clipjax data emoji-world` writes is the world, what is held out apart from the rest."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipjax.cli.main import main
from clipjax.config.errors import UsageError, UserError
from clipjax.data import world_shards as module
from clipjax.data.emoji_world import load_emoji_world
from clipjax.data.world_shards import HELD_OUT_VIEWS, SPLITS, make_emoji_world

COLOURS = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "out"
    return out, make_emoji_world(out, colours=COLOURS)


@pytest.fixture(scope="module")
def pairs(made):
    return {split: read(made[0] / split) for split in SPLITS}


def read(folder):
    out = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {one.name: tar.extractfile(one).read() for one in tar}
        for key in dict.fromkeys(name.partition(".")[0] for name in members):
            fields = json.loads(members[f"{key}.json"])
            pixels = np.asarray(Image.open(io.BytesIO(members[f"{key}.png"])))
            text, label = members[f"{key}.txt"].decode(), int(members[f"{key}.cls"])
            out.append({**fields, "pixels": pixels, "text": text, "label": label})
    return out


def test_counts(made, pairs):
    world = load_emoji_world()
    views = world.words.shape[1]
    words = len(world.concepts) * COLOURS
    assert made[1]["splits"] == {
        "photo": int((~world.held_out).sum()),
        "edges": int((~world.held_out).sum()),
        "word": words * (views - HELD_OUT_VIEWS),
        "held_out": int(world.held_out.sum()),
        "reading": words * HELD_OUT_VIEWS,
    }
    assert {split: len(of) for split, of in pairs.items()} == made[1]["splits"]
    assert json.loads((made[0] / "dataset.json").read_text()) == made[1]


def test_no_picture_of_a_held_out_stimulus_is_trained_on(pairs):
    world = load_emoji_world()
    out = {world.stimuli[i] for i in np.flatnonzero(world.held_out)}
    assert {one["stimulus"] for one in pairs["held_out"]} == out
    for split in ("photo", "edges"):
        stimuli = {one["stimulus"] for one in pairs[split]}
        assert stimuli == set(world.stimuli) - out
    seen = {one["pixels"].tobytes() for split in ("photo", "edges", "word") for one in pairs[split]}
    assert not seen & {one["pixels"].tobytes() for one in pairs["held_out"] + pairs["reading"]}


def test_no_place_of_a_word_to_be_read_is_trained_on(pairs):
    views = {split: {one["view"] for one in pairs[split]} for split in ("word", "reading")}
    assert not views["word"] & views["reading"]
    assert len(views["reading"]) == HELD_OUT_VIEWS
    assert sorted(views["word"] | views["reading"]) == list(
        range(load_emoji_world().words.shape[1])
    )


def test_pictures_and_captions_are_those_of_the_world(made, pairs):
    world = load_emoji_world()
    row = {one: i for i, one in enumerate(world.stimuli)}
    names = (made[0] / "classnames.txt").read_text().splitlines()
    assert names == [one.name for one in world.concepts]
    for split, pictures in (
        ("photo", world.photo),
        ("held_out", world.photo),
        ("edges", world.edge_pictures),
    ):
        for one in pairs[split]:
            number = row[one["stimulus"]]
            assert np.array_equal(one["pixels"], pictures[number])
            assert one["text"] == one["captions"][0] == world.captions[number][0]
            of = [names[c] for c in np.flatnonzero(world.labels[number])]
            assert one["captions"] == [*world.captions[number], *of]
            assert names[one["label"]] in of
            counts = {name: world.labels[:, names.index(name)].sum() for name in of}
            assert counts[names[one["label"]]] == min(counts.values())


def test_words_are_named_by_what_is_written(pairs):
    world = load_emoji_world()
    names = [one.name for one in world.concepts]
    for one in pairs["word"] + pairs["reading"]:
        assert one["captions"] == [one["text"]] == [names[one["label"]]]
        mask = world.words[one["label"], one["view"]]
        paper = one["pixels"][mask == 0]
        assert (paper == paper[0]).all()
        assert (one["pixels"][mask == 255] != paper[0]).any(axis=1).all()


def test_the_seed_chooses_colours_and_nothing_else(made, pairs, tmp_path):
    make_emoji_world(tmp_path / "again", colours=COLOURS)
    make_emoji_world(tmp_path / "other", colours=COLOURS, seed=1)
    for path in sorted(made[0].rglob("*.tar")):
        name = path.relative_to(made[0])
        assert path.read_bytes() == (tmp_path / "again" / name).read_bytes()
        same = path.read_bytes() == (tmp_path / "other" / name).read_bytes()
        assert same == (name.parts[0] not in ("word", "reading"))


def test_a_complete_folder_is_left_alone(made, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_emoji_world", lambda: pytest.fail("made again"))
    assert make_emoji_world(made[0], colours=COLOURS) == made[1]
    assert "already complete" in capsys.readouterr().err
    with pytest.raises(UserError, match="Choose another folder with --out"):
        make_emoji_world(made[0], colours=COLOURS + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "--seed -1: wanted 0 or more"),
        ({"colours": 0}, "--colours 0: wanted 1 to 1,000"),
        ({"colours": 1001}, "--colours 1001: wanted 1 to 1,000"),
    ],
)
def test_refuses_what_cannot_be(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        make_emoji_world(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", "emoji-world", "--out", str(tmp_path / "out"), "--colours", "1"])
    assert not ended.value.code
    assert "photo 181, edges 181, word 144, held_out 41, reading 48" in capsys.readouterr().out
