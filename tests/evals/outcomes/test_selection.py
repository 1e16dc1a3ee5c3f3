import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals.outcomes import metrics_of
from clipjax.evals.outcomes.selection import _chance_of_both, judge


def embeds_of(scores):
    """Images and captions of whom these are the similarities, image by caption."""
    scores = np.asarray(scores, np.float32)
    return scores, np.tile(np.eye(scores.shape[2], dtype=np.float32), (len(scores), 1, 1))


def values(outcome):
    return {name: metric.value for name, metric in metrics_of(outcome).items()}


@settings(deadline=None, max_examples=60)
@given(
    samples=st.integers(1, 8),
    images=st.integers(1, 4),
    captions=st.integers(1, 4),
    levels=st.sampled_from([2, 1000]),
    seed=st.integers(0, 1000),
)
def test_scores_are_those_of_the_definition(samples, images, captions, levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(1, levels + 1, (samples, images, captions)) / np.float32(levels)
    outcome = judge(*embeds_of(scores))
    image, text = [], []
    for one in scores:
        pairs = range(min(images, captions))
        image.append(all(int(np.argmax(one[:, p])) == p for p in pairs))
        text.append(all(int(np.argmax(one[p])) == p for p in pairs))
    both = np.logical_and(image, text)
    expected = {"image_acc": np.mean(image), "text_acc": np.mean(text), "acc": np.mean(both)}
    assert values(outcome) == pytest.approx(expected)


def test_winoground_by_hand():
    """Right; captions right and images not; images right and captions not; neither."""
    scores = [
        [[0.9, 0.1], [0.2, 0.8]],
        [[0.9, 0.8], [0.1, 0.2]],
        [[0.3, 0.1], [0.2, 0.15]],
        [[0.1, 0.9], [0.8, 0.2]],
    ]
    outcome = judge(*embeds_of(scores))
    assert values(outcome) == {"image_acc": 0.5, "text_acc": 0.5, "acc": 0.25}
    assert outcome.options["ties"] == 0


def test_sugarcrepe_by_hand():
    """The first caption is right; a tie goes to it, and is told."""
    outcome = judge(*embeds_of([[[0.9, 0.1]], [[0.1, 0.9]], [[0.5, 0.5]], [[0.2, 0.1]]]))
    assert values(outcome) == {"image_acc": 1.0, "text_acc": 0.75, "acc": 0.75}
    assert outcome.options == {"ties": 1}
    assert outcome.arrays["chosen_text"].tolist() == [[0], [1], [0], [0]]


def test_a_model_that_sees_nothing_is_all_ties():
    point = np.full((7, 2, 4), 0.5, np.float32)
    assert judge(point[:, :1], point).options["ties"] == 7
    outcome = judge(point, point)
    assert outcome.options["ties"] == 7
    assert set(values(outcome).values()) == {0.0}


def test_a_picture_that_did_not_decode_is_wrong(unit_rows):
    texts = unit_rows(0, 8).reshape(4, 2, 8)
    images = texts.copy()
    assert values(judge(images, texts))["acc"] == 1
    images[0, 0] = images[1, 1] = 0
    images[2, 1] = np.nan
    outcome = judge(images, texts)
    assert outcome.arrays["chosen_text"].tolist() == [[-1, 1], [0, -1], [0, -1], [0, 1]]
    assert (outcome.arrays["chosen_image"][:3] >= 0).all()  # the other of the two
    assert set(values(outcome).values()) == {0.25}
    outcome = judge(images[:2, :1], texts[:2])
    assert outcome.arrays["chosen_image"][0].tolist() == [-1, -1]
    assert values(outcome) == {"image_acc": 0.5, "text_acc": 0.5, "acc": 0.5}


@pytest.mark.parametrize("shape", [(2, 2), (1, 2), (2, 1), (3, 3), (2, 3), (3, 2), (1, 1)])
def test_chance_is_that_of_random_similarities(shape, unit_rows):
    """20,000 draws have a standard error of at most 0.0036."""
    scores = np.random.default_rng(0).random((20_000, *shape)).astype(np.float32)
    for metric in metrics_of(judge(*embeds_of(scores))).values():
        assert metric.value == pytest.approx(metric.chance, abs=0.014)
        assert metric.samples == 20_000


def test_chance_of_both_by_hand():
    assert _chance_of_both(2, 2) == pytest.approx(1 / 6)
    assert _chance_of_both(1, 5) == _chance_of_both(5, 1) == pytest.approx(1 / 5)


def test_resampled_samples(redraw):
    scores = np.random.default_rng(0).random((50, 2, 2)).astype(np.float32)
    outcome = judge(*embeds_of(scores))
    image = (outcome.arrays["chosen_image"] == [0, 1]).all(axis=1)
    text = (outcome.arrays["chosen_text"] == [0, 1]).all(axis=1)
    found = metrics_of(outcome)
    redraw(found["image_acc"], lambda chosen: image[chosen].mean())
    redraw(found["acc"], lambda chosen: (image & text)[chosen].mean())
