import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals.outcomes import metrics_of, retrieval
from clipjax.evals.outcomes.retrieval import judge


def by_definition(queries, items, right):
    """Places of the best right items in the order of similarity, then number; and the first."""
    places, first = [], []
    for row, query in enumerate(queries.astype(np.float64)):
        order = sorted(range(len(items)), key=lambda i: (-(query @ items[i]), i))
        places.append(next((p for p, i in enumerate(order) if right[row, i]), len(items)))
        first.append(order[0])
    return places, first


def _rows(seed, rows, ties):
    rng = np.random.default_rng(seed)
    if ties:
        return rng.choice([-0.5, 0.25, 0.5], (rows, 4)).astype(np.float32)
    x = rng.normal(size=(rows, 8)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@settings(deadline=None, max_examples=40)
@given(
    images=st.integers(1, 20),
    texts=st.integers(1, 40),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
    most=st.sampled_from([1, 100, 1 << 23]),
)
def test_outcome_is_that_of_the_definition_whatever_the_chunk(images, texts, ties, seed, most):
    x, t = _rows(seed, images, ties), _rows(seed + 1, texts, ties)
    owner = np.random.default_rng(seed).integers(0, images, texts)  # some images have no text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_MOST_SIMILARITIES", most)
        outcome = judge(x, t, owner)
    right = owner[:, None] == np.arange(images)
    places, first = by_definition(t, x, right)
    assert outcome.arrays["image_rank"].tolist() == places
    assert outcome.arrays["top1_image"].tolist() == first
    places, first = by_definition(x, t, right.T)
    assert outcome.arrays["text_rank"].tolist() == places
    assert outcome.arrays["top1_text"].tolist() == first
    found = metrics_of(outcome)
    assert all(0 <= metric.value <= 1 for metric in found.values())
    assert found["image_retrieval_recall@1"].samples == texts
    assert found["text_retrieval_recall@1"].samples == images


def test_several_captions_by_hand():
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.9, 0.1, 0], [0, 0.8, 0.6]], np.float32)
    outcome = judge(images, texts, np.array([0, 0, 1, 1, 2]))
    arrays = outcome.arrays
    assert arrays["image_rank"].tolist() == [0, 1, 2, 1, 1]
    # Image 1 is nearest to texts 1, 4, 3; text 3 is its own. Image 2: texts 2, then its own 4.
    assert arrays["text_rank"].tolist() == [0, 2, 1]
    assert arrays["top1_text"].tolist() == [0, 1, 2]
    assert arrays["top1_image"].tolist() == [0, 1, 2, 0, 1]
    values = {name: metric.value for name, metric in metrics_of(outcome).items()}
    assert values["image_retrieval_recall@1"] == pytest.approx(1 / 5)
    assert values["text_retrieval_recall@1"] == pytest.approx(1 / 3)
    assert values["mean_recall@1"] == pytest.approx((1 / 5 + 1 / 3) / 2)
    assert values["image_retrieval_recall@5"] == values["text_retrieval_recall@10"] == 1


@pytest.fixture
def judged(unit_rows):
    """30 images with one to five texts each; two did not decode."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    images = unit_rows(0, 30)
    texts = images[owner] + 0.9 * unit_rows(1, len(owner))
    images[[4, 11]] = 0
    return judge(images, texts.astype(np.float32), owner)


def test_a_resample_takes_an_image_with_all_of_its_texts(judged, redraw):
    owner = judged.arrays["image_of_text"]
    found = metrics_of(judged)

    def image_recall(k):
        hit = judged.arrays["image_rank"] < k
        return lambda chosen: np.concatenate([hit[owner == image] for image in chosen]).mean()

    def text_recall(k):
        return lambda chosen: (judged.arrays["text_rank"] < k)[chosen].mean()

    for k in (1, 5, 10):
        redraw(found[f"image_retrieval_recall@{k}"], image_recall(k))
        redraw(found[f"text_retrieval_recall@{k}"], text_recall(k))
    redraw(found["mean_recall@1"], lambda c: (image_recall(1)(c) + text_recall(1)(c)) / 2)


def test_a_picture_that_did_not_decode_finds_nothing_and_stands_in_no_ones_way(unit_rows):
    images, texts = unit_rows(0, 6), -unit_rows(0, 6)  # a row of zeros would be nearest of all
    everything = judge(images, texts, np.arange(6)).arrays
    images[2] = 0
    arrays = judge(images, texts, np.arange(6)).arrays
    assert arrays["text_rank"][2] == arrays["image_rank"][2] == 6
    assert arrays["top1_text"][2] == -1
    assert (arrays["top1_image"] != 2).all()
    others = np.arange(6) != 2
    assert (arrays["image_rank"][others] <= everything["image_rank"][others]).all()
    assert (arrays["text_rank"][others] == everything["text_rank"][others]).all()


def test_what_is_not_a_number_finds_nothing(unit_rows):
    nothing = np.full((12, 8), np.nan, np.float32)
    values = metrics_of(judge(nothing, nothing, np.arange(12)))
    assert all(metric.value == 0 for metric in values.values())
    arrays = judge(nothing, unit_rows(0, 12), np.arange(12)).arrays
    assert (arrays["image_rank"] == 12).all()


@pytest.mark.parametrize("count", [12, 33, 100])
def test_a_model_that_sees_nothing_is_at_chance(count):
    point = np.full((count, 4), 0.5, np.float32)
    found = metrics_of(judge(point, point, np.arange(count)))
    for name in ("image_retrieval_recall@5", "text_retrieval_recall@5", "mean_recall@1"):
        assert found[name].value == pytest.approx(found[name].chance)


def test_chance_is_that_of_a_random_order():
    """Three images with 1, 2 and 4 of 7 texts."""
    owner = np.array([0, 1, 1, 2, 2, 2, 2])
    outcome = judge(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[owner], owner)
    found = metrics_of(outcome)
    assert found["text_retrieval_recall@1"].chance == pytest.approx((1 + 2 + 4) / 7 / 3)
    rng = np.random.default_rng(0)
    best = [
        [min(np.flatnonzero(row == image)) for image in range(3)]
        for row in (rng.permutation(owner) for _ in range(3000))
    ]
    # Standard error of 3,000 orders of three images: at most 0.009.
    assert found["text_retrieval_recall@5"].chance == pytest.approx(
        np.mean(np.array(best) < 5), abs=0.03
    )
    assert found["image_retrieval_recall@1"].chance == pytest.approx(1 / 3)
    assert found["image_retrieval_recall@5"].chance == 1


def test_a_text_of_no_image_is_named(unit_rows):
    with pytest.raises(ValueError, match="text 1 is of image 2; there are 2 images"):
        judge(unit_rows(0, 2), unit_rows(1, 3), np.array([0, 2, 1]))


def test_equal_captions_are_ties_wherever_they_stand():
    """Twenty captions of a hundred images, at widths where products of matrices have edges."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 64)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    caption = rng.integers(0, 20, 100)
    t = rng.normal(size=(20, 64)).astype(np.float32)
    t = (t / np.linalg.norm(t, axis=1, keepdims=True))[caption]
    found = judge(x, t, np.arange(100)).arrays
    similarity = x.astype(np.float64) @ t.T.astype(np.float64)
    for image in range(100):
        own = similarity[image, image]
        better = (similarity[image] > own) & (caption != caption[image])
        earlier = (caption == caption[image]) & (np.arange(100) < image)
        assert found["text_rank"][image] == (better | earlier).sum()
