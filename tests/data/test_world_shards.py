"""What `clipjax data emoji-world` writes is the world, what is held out apart from the rest."""

import io
import json
import tarfile

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from clipjax.cli.main import main
from clipjax.config.errors import UsageError, UserError
from clipjax.data import world_shards as module
from clipjax.data.emoji_world import load_emoji_world
from clipjax.data.ink import centred, moved, plate_of
from clipjax.data.world_shards import SPLITS, make_emoji_world

COPIES = {"stimulus": 2, "word": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COPIES", COPIES)
        yield out, make_emoji_world(out)


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
    trained = int((~world.held_out).sum())
    assert made[1]["splits"] == {
        "photo": COPIES["stimulus"] * trained,
        "edges": COPIES["stimulus"] * trained,
        "word": COPIES["word"] * world.trained_words[..., 0, 0].size,
        "held_out": int(world.held_out.sum()),
        "reading": 5 * world.words[..., 0, 0].size,
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


def test_all_views_of_a_word_are_shown(pairs):
    world = load_emoji_world()
    for split, masks in (("word", world.trained_words), ("reading", world.words)):
        views = {(one["label"], one["view"]) for one in pairs[split]}
        assert views == set(np.ndindex(masks.shape[:2]))


def test_the_first_copies_are_the_world(pairs):
    world = load_emoji_world()
    trained = np.flatnonzero(~world.held_out)
    for split, pictures, rows in (
        ("photo", world.photo, trained),
        ("edges", world.edge_pictures, trained),
        ("held_out", world.photo, np.flatnonzero(world.held_out)),
    ):
        for one, row in zip(pairs[split], rows, strict=False):
            assert one["stimulus"] == world.stimuli[row]
            assert np.array_equal(one["pixels"], pictures[row])


def test_other_copies_are_smaller_and_on_white(pairs):
    """As much ink as 0.65 to 1 of the side leaves, give or take what resampling does."""
    world = load_emoji_world()
    row = {one: i for i, one in enumerate(world.stimuli)}
    trained = int((~world.held_out).sum())
    for split, pictures in (("photo", world.photo), ("edges", world.edge_pictures)):
        ratios = []
        for one in pairs[split][trained:]:
            whole = 255.0 - pictures[row[one["stimulus"]]]
            ratios.append((255.0 - one["pixels"]).sum() / whole.sum())
        assert 0.65**2 * 0.9 < min(ratios) < 0.5
        assert 0.9 < max(ratios) < 1.1


def test_captions_and_labels_are_those_of_the_world(made, pairs):
    world = load_emoji_world()
    row = {one: i for i, one in enumerate(world.stimuli)}
    names = (made[0] / "classnames.txt").read_text().splitlines()
    assert names == [one.name for one in world.concepts]
    for one in pairs["photo"] + pairs["edges"] + pairs["held_out"]:
        number = row[one["stimulus"]]
        of = [names[c] for c in np.flatnonzero(world.labels[number])]
        assert one["text"] == one["captions"][0] == world.captions[number][0]
        assert one["captions"] == [*world.captions[number], *of]
        counts = {name: world.labels[:, names.index(name)].sum() for name in of}
        assert counts[names[one["label"]]] == min(counts.values())


def test_words_are_named_by_what_is_written(pairs):
    """Somewhere the word's mask mixes one ink and one paper to what is there."""
    world = load_emoji_world()
    names = [one.name for one in world.concepts]
    shown = [(one, world.trained_words) for one in pairs["word"]]
    for one, masks in shown + [(one, world.words) for one in pairs["reading"]]:
        assert one["captions"] == [one["text"]] == [names[one["label"]]]
        mask = masks[one["label"], one["view"]]
        top, left, bottom, right = plate_of([mask], margin=0)
        share = mask[top:bottom, left:right, None] / 255
        bare = share[..., 0] == 0
        if not bare.any():
            continue  # tiny letters leave no paper between them
        windows = sliding_window_view(one["pixels"], (*bare.shape, 3))[:, :, 0]
        paper = windows[:, :, bare]
        plain = np.argwhere((paper == paper[:, :, :1]).all(axis=(2, 3)))
        assert any(_mixes(windows[y, x].astype(float), share, bare) for y, x in plain)


def test_three_of_ten_words_are_on_signs_before_emoji_that_are_trained_on(pairs):
    """Where neither ink nor paper is, there is nothing, one colour, or an emoji."""
    world = load_emoji_world()
    kinds = {"paper": 0, "plate": 0, "emoji": 0}
    for one in pairs["word"]:
        mask = world.trained_words[one["label"], one["view"]]
        top, left, bottom, right = plate_of([mask])
        outside = np.ones(mask.shape, bool)
        outside[top:bottom, left:right] = False
        behind = one["pixels"][outside]
        if len(np.unique(behind, axis=0)) == 1:
            own = one["pixels"][top:bottom, left:right].reshape(-1, 3)
            kinds["paper" if (own == behind[0]).all(axis=1).any() else "plate"] += 1
            continue
        kinds["emoji"] += 1
        same = (world.photo[:, outside] == behind).all(axis=(1, 2))
        assert same.any()
        assert not world.held_out[same].any()
    total = sum(kinds.values())
    # Five standard deviations of a share of 1,920.
    assert abs(kinds["emoji"] / total - 0.3) < 5 * np.sqrt(0.3 * 0.7 / total)
    assert abs(kinds["paper"] / total - 0.4) < 5 * np.sqrt(0.4 * 0.6 / total)


def _mixes(pixels, share, bare):
    """Whether pixels are share * ink + (1 - share) * paper, rounded, for some ink."""
    paper = pixels[bare][0]
    strongest = np.unravel_index(share.argmax(), share.shape)[:2]
    ink = paper + (pixels[strongest] - paper) / share.max()
    return np.abs(ink - paper).max() > 50 and np.allclose(
        share * ink + (1 - share) * paper, pixels, atol=1.6
    )


def test_the_seed_chooses_places_and_colours(made, tmp_path):
    make_emoji_world(tmp_path / "again")
    make_emoji_world(tmp_path / "other", seed=1)
    for path in sorted(made[0].rglob("*.tar")):
        name = path.relative_to(made[0])
        assert path.read_bytes() == (tmp_path / "again" / name).read_bytes()
        same = path.read_bytes() == (tmp_path / "other" / name).read_bytes()
        assert same == (name.parts[0] == "held_out")


def test_ink_is_centred_as_far_as_it_fits():
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 1:6] = 255
    assert plate_of([centred(mask, (0, 0, 8, 8))], margin=0) == (3, 2, 5, 7)
    assert plate_of([centred(mask, (7, 7, 8, 8))], margin=0) == (6, 3, 8, 8)
    assert plate_of([mask, mask.T]) == (0, 0, 7, 7)
    with pytest.raises(ValueError, match="does not fit at row 7"):
        moved(mask, 7, 0)


def test_a_complete_folder_is_left_alone(made, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_emoji_world", lambda: pytest.fail("made again"))
    assert make_emoji_world(made[0]) == made[1]
    assert "already complete" in capsys.readouterr().err
    with pytest.raises(UserError, match="Choose another folder with --out"):
        make_emoji_world(made[0], seed=1)


def test_refuses_a_seed_that_cannot_be(tmp_path):
    with pytest.raises(UsageError, match="--seed -1: wanted 0 or more"):
        make_emoji_world(tmp_path / "out", seed=-1)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_wrote(made, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", "emoji-world", "--out", str(tmp_path / "out")])
    assert not ended.value.code
    assert "photo 736, edges 736, word 1,920, held_out 90, reading 960" in capsys.readouterr().out
