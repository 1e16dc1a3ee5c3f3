"""The four arms differ in the ink alone, and readers that are planted get the scores they must.

The planted models look at pixels: pictures are of one colour a class, and a word is a pattern that
its scrambled letters have as well, in another order.
"""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.cli.main import main
from clipjax.config import UsageError, UserError
from clipjax.data.concepts import Concept
from clipjax.data.emoji_fonts import FONT_ROOTS
from clipjax.data.emoji_world import load_emoji_world
from clipjax.data.ink import plate_of, written
from clipjax.data.resize import EvaluationTransform
from clipjax.data.word_pictures import WordPainter
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.typographic import run_typographic, score_trials, table
from clipjax.interpret.typographic_pictures import (
    ARMS,
    ArmPictures,
    Scene,
    Trials,
    WordsAlone,
    draw_trials,
    facet_scene,
    world_scene,
)

SIDE, CLASSES = 16, 6
AS_IT_IS = EvaluationTransform()


class Bars:
    """Word k is a full bar in row 2k + 1; its scrambled letters are the same bar with gaps."""

    def on_picture(self, word, own, view):
        return self.bar(word), self.bar(word, gaps=True), self.bar(own)

    def alone(self, word, view):
        return self.bar(word)

    def bar(self, word, gaps=False):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[2 * word + 1, 2:14] = 255
        if gaps:
            mask[2 * word + 1, 4:14:3] = 0
        return mask


def photo_of(classes):
    """Pictures of one shade a class, which no ink or paper has."""
    return lambda row: np.full((SIDE, SIDE, 3), 10 + 3 * classes[row], np.uint8)


def bar_scene(labels):
    labels = np.asarray(labels, bool)
    first = labels.argmax(axis=1)
    return Scene(
        names=tuple(f"word{c}" for c in range(CLASSES)),
        stimuli=tuple(map(str, range(len(labels)))),
        labels=labels,
        photo=photo_of(first),
        masks=Bars(),
    )


class Planted:
    """A model that names the corner's shade, and a full bar instead with a probability."""

    def __init__(self, reads):
        self.reads, self._rng = reads, np.random.default_rng(0)

    def texts(self, texts, rows=None, *, progress=""):
        return np.eye(CLASSES, dtype=np.float32)[[int(text[-1]) for text in texts]]

    def images(self, images, rows=None, *, progress=""):
        out = np.zeros((len(images), CLASSES), np.float32)
        picture = np.empty((SIDE, SIDE, 3), np.uint8)
        for i in range(len(images)):
            images.fill(i, picture)
            out[i, self.answer(picture)] = 1
        return out

    def answer(self, picture):
        rows = np.arange(CLASSES) * 2 + 1
        inside = picture[rows, 2:14]
        full = (inside == inside[:, :1]).all(axis=(1, 2)) & (inside[:, 0] != picture[rows, 1]).any(
            axis=1
        )
        if full.any() and self._rng.random() < self.reads:
            return int(full.argmax())
        return min(max((int(picture[0, 0, 0]) - 10) // 3, 0), CLASSES - 1)


@pytest.fixture(scope="module")
def scene():
    return bar_scene(np.eye(CLASSES)[np.arange(60) % CLASSES])


def test_a_model_that_reads_everything_is_hijacked_always(scene):
    found = run_typographic(Planted(1.0), scene, AS_IT_IS, repeats=3)
    for score in (found.hijack, found.drop, found.stroop, found.reading):
        assert (score.value, score.low, score.high) == (1, 1, 1)
    assert found.covering.value == 0
    assert {arm: s.value for arm, s in found.accuracy.items()} == {
        "clean": 1,
        "scrambled": 1,
        "incongruent": 0,
        "congruent": 1,
    }
    assert (found.stimuli, found.trials, found.classes) == (60, 180, CLASSES)


def test_a_model_that_reads_nothing_is_not_hijacked(scene):
    found = run_typographic(Planted(0.0), scene, AS_IT_IS, repeats=2)
    for score in (found.hijack, found.drop, found.stroop, found.covering):
        assert score.value == 0
    assert found.reading.value < 0.5


def test_half_of_it_is_read_and_the_interval_holds_it(scene):
    """Of 240 trials a reader of 0.4 errs by 0.13 (four deviations) at most."""
    found = run_typographic(Planted(0.4), scene, AS_IT_IS, repeats=4)
    assert found.hijack.value == pytest.approx(0.4, abs=0.13)
    assert found.hijack.low < found.hijack.value < found.hijack.high
    assert found.hijack.high - found.hijack.low < 0.2
    assert found.drop.value == found.stroop.value == found.hijack.value


def test_scores_are_what_loops_over_trials_give():
    rng = np.random.default_rng(1)
    labels = rng.random((7, 5)) < 0.3
    trials = Trials(
        stimulus=np.repeat(np.arange(7), 3),
        word=rng.integers(5, size=21),
        own=np.zeros(21, int),
        view=np.zeros(21, int),
    )
    told = {arm: rng.integers(5, size=21) for arm in ARMS}
    read = rng.integers(5, size=(5, 4))
    found = score_trials(labels, trials, told, read, resamples=50)

    def share(arm, hit):
        return sum(hit(i, told[arm][i]) for i in range(21)) / 21

    right = {a: share(a, lambda i, t: labels[trials.stimulus[i], t]) for a in ARMS}
    word = {a: share(a, lambda i, t: t == trials.word[i]) for a in ARMS}
    expected = {
        "hijack": word["incongruent"] - word["scrambled"],
        "drop": right["scrambled"] - right["incongruent"],
        "stroop": right["congruent"] - right["incongruent"],
        "covering": right["clean"] - right["scrambled"],
        "reading": np.mean([read[c, v] == c for c in range(5) for v in range(4)]),
    }
    for name, value in expected.items():
        assert getattr(found, name).value == pytest.approx(value, abs=1e-12), name
    for arm in ARMS:
        assert found.accuracy[arm].value == pytest.approx(right[arm], abs=1e-12)
        assert found.says_word[arm].value == pytest.approx(word[arm], abs=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 10**6))
def test_no_picture_gets_a_word_that_it_shows(seed, repeats, draw):
    rng = np.random.default_rng(draw)
    labels = rng.random((9, CLASSES)) < 0.4
    labels[np.arange(9), rng.integers(CLASSES, size=9)] = True
    labels[~(~labels).any(axis=1), 0] = False
    scene = bar_scene(labels)
    trials = draw_trials(scene, repeats=repeats, seed=seed)
    assert len(trials) == 9 * repeats
    assert not labels[trials.stimulus, trials.word].any()
    assert labels[trials.stimulus, trials.own].all()
    assert trials.stimulus.tolist() == np.repeat(np.arange(9), repeats).tolist()
    again = draw_trials(scene, repeats=repeats, seed=seed)
    assert again.word.tolist() == trials.word.tolist()


def test_words_are_drawn_evenly_among_the_wrong_ones(scene):
    trials = draw_trials(scene, repeats=200, seed=3)
    for own in range(CLASSES):
        counts = np.bincount(trials.word[trials.own == own], minlength=CLASSES)
        assert counts[own] == 0
        # 2,000 draws of five words: 400 each, with a deviation of 18.
        assert np.abs(np.delete(counts, own) - 400).max() < 90


def test_only_names_of_as_many_words_are_written(scene):
    names = ("cat", "dog", "ice cream", "hot dog", "sea lion", "owl")
    trials = draw_trials(dataclasses.replace(scene, names=names), repeats=20, seed=0)
    parts = np.array([len(name.split()) for name in names])
    assert (parts[trials.word] == parts[trials.own]).all()


@pytest.fixture(scope="module")
def world_arms():
    world = load_emoji_world()
    scene = world_scene(world)
    trials = draw_trials(scene, repeats=1, seed=5)
    arms = {arm: ArmPictures(scene, trials, arm, AS_IT_IS, 5) for arm in ARMS}
    return world, scene, trials, arms


def test_arms_of_the_world_differ_in_ink_alone(world_arms):
    world, scene, trials, arms = world_arms
    for i in range(len(trials)):
        pictures = {arm: arms[arm].picture(i) for arm in ARMS}
        stimulus, word, view = trials.stimulus[i], trials.word[i], trials.view[i] % 8
        assert np.array_equal(pictures["clean"], world.photo[stimulus])
        masks = scene.masks.on_picture(int(word), int(trials.own[i]), int(view))
        assert np.array_equal(masks[0], world.words[word, view])
        assert np.array_equal(masks[1], world.scrambled[word, view])
        top, left, bottom, right = plate_of(masks)
        outside = np.ones((32, 32), bool)
        outside[top:bottom, left:right] = False
        for arm, mask in zip(("incongruent", "scrambled", "congruent"), masks, strict=True):
            assert np.array_equal(pictures[arm][outside], pictures["clean"][outside])
            assert (mask[outside] == 0).all()
            paper = pictures[arm][~outside & (mask == 0)]
            assert len(np.unique(paper, axis=0)) == 1
            # Colours are those of the other arms.
            assert np.array_equal(paper[0], pictures["scrambled"][~outside & (masks[1] == 0)][0])
        ink = {
            arm: {tuple(p) for p in pictures[arm][mask == 255]}
            for arm, mask in zip(("incongruent", "scrambled"), masks, strict=False)
        }
        assert len(ink["incongruent"] | ink["scrambled"]) <= 1


def test_the_right_word_lies_where_the_wrong_one_does(world_arms):
    """Its middle is within a pixel, unless the border is in the way."""
    world, scene, trials, _ = world_arms
    for i in range(0, len(trials), 5):
        masks = scene.masks.on_picture(int(trials.word[i]), int(trials.own[i]), int(trials.view[i]))
        own = world.words[trials.own[i], trials.view[i] % 8]
        assert sorted(masks[2].ravel()) == sorted(own.ravel())
        for axis in (0, 1):
            there = np.flatnonzero(np.maximum(*masks[:2]).any(axis=1 - axis))
            here = np.flatnonzero(masks[2].any(axis=1 - axis))
            apart = abs(there[[0, -1]].mean() - here[[0, -1]].mean())
            assert apart <= 1.5 or here[0] == 0 or here[-1] == 31


def test_words_alone_are_those_of_all_classes(world_arms):
    world, scene, _, _ = world_arms
    pictures = WordsAlone(scene, 8, AS_IT_IS, 0)
    assert len(pictures) == 24 * 8
    out = np.empty((32, 32, 3), np.uint8)
    for index in range(0, len(pictures), 7):
        pictures.fill(index, out)
        mask = world.words[index // 8, index % 8]
        assert len(np.unique(out[mask == 0], axis=0)) == 1
        assert (out[mask > 140] != out[mask == 0][0]).any()


@given(st.integers(0, 10**6))
def test_ink_covers_by_its_share(seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(256, size=(8, 8, 3)).astype(np.uint8)
    mask = rng.choice([0, 51, 255], size=(8, 8)).astype(np.uint8)
    before = picture.copy()
    out = written(picture, mask, (2, 1, 6, 5), (200, 0, 100), (0, 250, 100))
    assert np.array_equal(picture, before)
    for y, x in np.ndindex(8, 8):
        below = np.array((0, 250, 100) if 2 <= y < 6 and 1 <= x < 5 else picture[y, x], float)
        share = mask[y, x] / 255
        expected = share * np.array((200, 0, 100)) + (1 - share) * below
        assert np.abs(out[y, x] - expected).max() <= 0.5 + 1e-9


class Pictures:
    """A facet of plain pictures, two views a stimulus."""

    owner = np.repeat(np.arange(4), 2)

    def __init__(self, labels, tower="image"):
        count = len(labels)
        self.rows = FacetRows(
            name="photo",
            tower=tower,
            stimuli=tuple(f"s{i}" for i in range(count)),
            samples=2 * count,
            texts=("",) * count,
            labels=np.asarray(labels, bool),
            confounds=np.zeros((count, 0)),
        )

    def fill(self, sample, out):
        out[...] = 20 * sample

    def text(self, sample):
        raise AssertionError

    def picture(self, row):
        return None


def painter(side=48):
    try:
        return WordPainter(FONT_ROOTS, side, 0)
    except UserError as error:
        pytest.skip(str(error))


def concepts(*names):
    return [Concept(name, name, (name,)) for name in names]


def test_stimuli_of_a_facet_get_drawn_words_at_one_place():
    labels = [[1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1]]
    scene = facet_scene(Pictures(labels), concepts("cat", "mountain", "sun"), 48, painter())
    assert scene.stimuli == ("s0", "s2", "s3")  # s1 shows nothing
    assert [int(scene.photo(row)[0, 0, 0]) for row in range(3)] == [0, 80, 120]
    trials = draw_trials(scene, repeats=6, seed=1)
    for i in range(len(trials)):
        word, mixed, own = scene.masks.on_picture(
            int(trials.word[i]), int(trials.own[i]), int(trials.view[i])
        )
        assert word.shape == (48, 48)
        assert abs(word.sum() / mixed.sum() - 1) < 0.25
        heights = [np.ptp(np.flatnonzero(mask.any(axis=1))) for mask in (word, mixed, own)]
        assert max(heights) - min(heights) <= 12
        assert (word != mixed).any()


@pytest.mark.parametrize(
    ("facet", "names", "message"),
    [
        (Pictures(np.eye(4)[:, :2], "text"), ("cat", "sun"), "has texts, wanted pictures"),
        (Pictures(np.zeros((4, 2))), ("cat", "sun"), "no stimulus shows one of two"),
        (Pictures(np.ones((4, 2))), ("cat", "sun"), "no stimulus shows one of two"),
        (Pictures(np.eye(4)[:, :2]), ("cat", "A"), "no stimulus shows one of two"),
        (Pictures(np.eye(4)[:, :2]), ("cat", "hot dog"), "no stimulus shows one of two"),
        (Pictures(np.eye(4)[:, :0]), (), "no stimulus shows one of two"),
    ],
)
def test_a_facet_on_which_nothing_can_be_written_is_refused(facet, names, message):
    with pytest.raises(UserError, match=message):
        facet_scene(facet, concepts(*names), 48, painter())


@pytest.mark.parametrize("name", ["repeats", "views", "resamples"])
def test_numbers_that_cannot_be(scene, name):
    with pytest.raises(UsageError, match=f"{name}=0"):
        run_typographic(Planted(1.0), scene, AS_IT_IS, **{name: 0})


def test_the_table_shows_every_arm(scene):
    found = run_typographic(Planted(0.4), scene, AS_IT_IS)
    text = table(found)
    for arm in ARMS:
        assert f"\n{arm} " in text
    for name in ("hijack", "drop", "stroop", "covering", "reading"):
        score = getattr(found, name)
        assert f"{score.value:.3f} ({score.low:.3f}, {score.high:.3f})" in text
    assert json.loads(json.dumps(found.as_json()))["hijack"]["value"] == found.hijack.value


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["neurons", "typographic", *map(str, arguments)])
    return ended.value.code


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--repeats", "0"], "--repeats 0: wanted 1 or more"),
        (["--seed", "-1"], "--seed -1: wanted 0 or more"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path, capsys):
    code = command("--model", "ViT-B-32", "--out", tmp_path / "out", *flags)
    said = capsys.readouterr().err
    assert code in (1, 2)
    assert message in said
    assert "Traceback" not in said


def test_the_command_writes_what_it_prints(trained, tmp_path, capsys):
    """With a model of twelve steps on 16 pixels: the numbers mean nothing and agree."""
    workdir, _ = trained
    out = tmp_path / "out"
    code = command("--model", workdir, "--out", out, "--repeats", "1", "--views", "1")
    said = capsys.readouterr().out
    assert not code
    found = json.loads((out / "typographic.json").read_text())
    assert (found["stimuli"], found["trials"], found["classes"]) == (458, 458, 24)
    for name in ("hijack", "drop", "stroop", "covering", "reading"):
        assert f"\n{name:<12}  {found[name]['value']:.3f} (" in said
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    difference = found["accuracy"]["scrambled"]["value"] - found["accuracy"]["incongruent"]["value"]
    assert found["drop"]["value"] == pytest.approx(difference)
    assert sorted(path.name for path in out.iterdir()) == ["typographic.json"]
