import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipjax.data.decode import BadSampleError
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.dataset import Dataset, Pictures, truth_of
from clipjax.evals.embedded import QUICK, open_embedded
from clipjax.evals.outcomes import classification, retrieval
from clipjax.evals.outcomes.outcome import Outcome
from clipjax.evals.thumbnails import chosen_items, examples_of, pictures_of


def classified(label, predicted, confidence):
    arrays = {
        "label": np.array(label),
        "predicted": np.array(predicted),
        "confidence": np.array(confidence, np.float32),
    }
    return Outcome(kind="classification", arrays=arrays, options={"num_classes": 10})


def png(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def dataset_of(files, kind="classification", texts=(), **truth):
    def read(index):
        if isinstance(files[index], Exception):
            raise files[index]
        return files[index]

    return Dataset(
        name="made",
        kind=kind,
        items=Pictures(len(files), read, EvaluationTransform()),
        keys=[str(number) for number in range(len(files))],
        texts=texts,
        truth=truth_of(**truth),
    )


def opened(uri):
    head, comma, body = uri.partition(",")
    assert (head, comma) == ("data:image/jpeg;base64", ",")
    return Image.open(io.BytesIO(base64.b64decode(body, validate=True)))


def test_confusions_by_hand():
    # 3 -> 1 three times, 0 -> 2 twice, 1 -> 0 twice, once not decoded, the rest right.
    outcome = classified(
        [3, 0, 1, 3, 9, 0, 1, 3, 5],
        [1, 2, 0, 1, 9, 2, 0, 1, -1],
        [0.2, 0.5, 0.4, 0.9, 1.0, 0.6, 0.4, 0.9, 0.1],
    )
    found = examples_of(dataset_of([b""] * 9), outcome)
    assert found == {
        "confusions": [
            {"truth": "3", "predicted": "1", "count": 3, "items": [3, 7, 0]},
            {"truth": "0", "predicted": "2", "count": 2, "items": [5, 1]},
            {"truth": "1", "predicted": "0", "count": 2, "items": [2, 6]},
        ]
    }
    assert chosen_items(outcome) == [3, 5, 2, 7, 1, 6, 0]


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 6), st.integers(0, 1000))
def test_confusions_are_wrong_counted_and_few(samples, classes, seed):
    rng = np.random.default_rng(seed)
    label, predicted = rng.integers(0, classes, samples), rng.integers(-1, classes, samples)
    outcome = classified(label, predicted, rng.random(samples))
    pairs = examples_of(dataset_of([b""]), outcome)["confusions"]
    counts = [pair["count"] for pair in pairs]
    assert counts == sorted(counts, reverse=True)
    assert len(pairs) <= 8
    for pair in pairs:
        truth, taken_for = int(pair["truth"]), int(pair["predicted"])
        inside = np.flatnonzero((label == truth) & (predicted == taken_for))
        assert truth != taken_for
        assert taken_for >= 0
        assert pair["count"] == len(inside)
        assert set(pair["items"]) <= set(inside.tolist())
        assert len(pair["items"]) == min(3, len(inside))
    left_out = {
        count
        for (truth, guess), count in zip(
            *np.unique(np.stack([label, predicted], 1), axis=0, return_counts=True), strict=True
        )
        if truth != guess >= 0 and (str(truth), str(guess)) not in named(pairs)
    }
    assert max(left_out, default=0) <= min(counts, default=0)
    items = chosen_items(outcome)
    assert sorted(items) == sorted(item for pair in pairs for item in pair["items"])


def named(pairs):
    return {(pair["truth"], pair["predicted"]) for pair in pairs}


def test_names_of_classes_are_those_of_the_prompts():
    data = open_embedded(QUICK["quick/digits"], EvaluationTransform())
    label = data.truth["label"]
    wrong = np.where(label == 7, 1, label)
    found = examples_of(data, classified(label, wrong, np.ones(300)))
    assert [(pair["truth"], pair["predicted"]) for pair in found["confusions"]] == [
        ("seven", "one")
    ]
    assert found["confusions"][0]["count"] == 30


def test_worst_retrievals_by_hand():
    images = np.eye(4, dtype=np.float32)
    images[3] = 0  # does not decode
    texts = np.array(
        [[0, 1, 0, 0], [1, 0, 0, 0], [0.1, 0.2, 0.97, 0], [0, 0, 0, 1], [0.9, 0, 0.4, 0]],
        np.float32,
    )
    outcome = retrieval.judge(images, texts, np.array([0, 1, 2, 3, 2]))
    data = dataset_of([b""] * 4, "retrieval", texts=["a", "b", "c", "d", "x" * 400])
    found = examples_of(data, outcome)
    # Image 0 has cosines 0, 1, .1, 0, .9 with the texts: its own "a" comes after b, c and x, and
    # after no equal one, for the lower number stands first.
    assert found["worst_images"] == [
        {"item": 0, "rank": 3, "own": ["a"], "nearest": "b"},
        {"item": 1, "rank": 2, "own": ["b"], "nearest": "a"},
    ]
    # Text "b" lies on image 0; its own, 1, has 0 and stands behind 0 only.
    assert found["worst_texts"] == [
        {"text": "a", "item": 0, "rank": 1, "nearest_item": 1},
        {"text": "b", "item": 1, "rank": 1, "nearest_item": 0},
        {"text": "x" * 299 + "…", "item": 2, "rank": 1, "nearest_item": 0},
    ]
    assert chosen_items(outcome) == [0, 1, 2]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 1000))
def test_worst_retrievals_are_the_worst_that_decode(images, texts, seed):
    rng = np.random.default_rng(seed)
    x, t = (rng.normal(size=(n, 4)).astype(np.float32) for n in (images, texts))
    bad = rng.random(images) < 0.2
    x[bad] = 0
    owner = rng.integers(0, images, texts)
    outcome = retrieval.judge(x, t, owner)
    lines = [f"text {number}" for number in range(texts)]
    found = examples_of(dataset_of([b""] * images, "retrieval", texts=lines), outcome)
    ranks = outcome.arrays["text_rank"]
    able = [i for i in range(images) if not bad[i] and i in owner and ranks[i]]
    assert [one["item"] for one in found["worst_images"]] == sorted(
        able, key=lambda i: (-ranks[i], i)
    )[:12]
    for one in found["worst_images"]:
        assert one["nearest"] not in one["own"]
        assert all(owner[lines.index(text)] == one["item"] for text in one["own"])
    ranks = outcome.arrays["image_rank"]
    able = [j for j in range(texts) if not bad[owner[j]] and ranks[j]]
    assert [lines.index(one["text"]) for one in found["worst_texts"]] == sorted(
        able, key=lambda j: (-ranks[j], j)
    )[:12]
    for one in found["worst_texts"]:
        assert one["item"] != one["nearest_item"]
        assert not bad[one["nearest_item"]]
        assert {one["item"], one["nearest_item"]} <= set(chosen_items(outcome))
    json.dumps(found, allow_nan=False)


def test_nothing_is_chosen_of_other_kinds_and_of_what_is_right():
    data = dataset_of([b""] * 3)
    other = Outcome(kind="multilabel", arrays={"scores": np.zeros((3, 2))}, options={})
    right = classified([0, 1, 2], [0, 1, 2], [1, 1, 1])
    for outcome in (other, right):
        assert chosen_items(outcome) == []
        assert pictures_of(data, outcome) == {}
    assert examples_of(data, other) == {}
    assert examples_of(data, right) == {"confusions": []}


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((300, 200), (64, 96)),  # as PIL has sizes: width, height
        ((200, 300), (96, 64)),
        ((8, 8), (96, 96)),
        ((60, 60), (60, 60)),
        ((10, 7), (63, 90)),
        ((1, 4000), (96, 1)),
    ],
)
def test_pictures_are_as_large_as_asked_for_and_keep_their_shape(size, shown):
    outcome = classified([0], [1], [1.0])
    uri = pictures_of(dataset_of([png(*size)]), outcome)[0]
    assert opened(uri).size == shown


def test_what_does_not_decode_or_is_too_much_or_no_picture_is_left_out():
    files = [png(96, 96, seed) for seed in range(6)]
    files[1], files[3] = b"no picture", BadSampleError("missing", "not there")
    files[4] = OSError("gone")
    data = dataset_of(files)
    outcome = classified([0, 0, 1, 1, 2, 2], [1, 1, 2, 2, 0, 0], [0.9] * 6)
    whole = pictures_of(data, outcome)
    assert list(whole) == [0, 2, 5]
    longest = len(whole[0]) + len(whole[2])
    assert list(pictures_of(data, outcome, most_characters=longest)) == [0, 2]
    assert sum(map(len, pictures_of(data, outcome, most_characters=9000).values())) <= 9000
    plain = dataclasses.replace(data, items=NoPictures())
    assert pictures_of(plain, outcome) == {}


class NoPictures:
    def __len__(self):
        return 6

    def fill(self, index, out):
        raise AssertionError("is not read")


def test_noise_is_the_most_that_fits_and_the_choice_is_the_same_again():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    files = [png(120, 120, seed) for seed in range(40)]
    data = dataset_of([files[number % 40] for number in range(200)])
    outcome = classification.judge(x, x[:20], rng.integers(0, 20, 200))
    found = pictures_of(data, outcome)
    assert 20 < len(found) <= 24
    assert sum(map(len, found.values())) <= 300_000
    assert found == pictures_of(data, outcome)
