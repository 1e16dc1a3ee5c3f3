import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals import geometry as module
from clipjax.evals.geometry import alignment, effective_rank, geometry, modality_gap, uniformity


def unit(rng, rows, embed, dtype=np.float32):
    x = rng.normal(size=(rows, embed))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def uniformity_by_definition(rows, t=2.0):
    """The logarithm of the mean over pairs, one pair after the other."""
    rows = rows.astype(np.float64)
    kernels = [
        np.exp(-t * np.square(rows[i] - rows[j]).sum())
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
    ]
    return np.log(np.mean(kernels))


def test_uniformity_by_hand():
    rows = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)  # squared distances 4, 2, 2
    expected = np.log((np.exp(-8) + 2 * np.exp(-4)) / 3)
    assert uniformity(rows) == pytest.approx(expected, abs=1e-14)
    assert uniformity(np.repeat(rows[:1], 5, axis=0)) == 0


@pytest.mark.parametrize("chunk", [1, 7, 64, 1024])
def test_uniformity_is_the_definition_in_chunks_of_any_size(chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_ROWS", chunk)
    rows = unit(np.random.default_rng(0), 64, 5)
    assert uniformity(rows) == pytest.approx(uniformity_by_definition(rows), abs=1e-13)
    assert uniformity(rows, t=0.5) == pytest.approx(uniformity_by_definition(rows, 0.5), abs=1e-13)


def test_uniformity_of_many_random_directions_is_near_its_limit():
    # |x - y|^2 = 2 - 2 x.y with x.y of variance 1 / d: log E exp(4 x.y) - 4, about 8 / d - 4.
    rows = unit(np.random.default_rng(0), 2000, 512)
    assert uniformity(rows) == pytest.approx(8 / 512 - 4, abs=2e-3)


def test_uniformity_of_a_sample_is_close_and_always_the_same(monkeypatch):
    rows = unit(np.random.default_rng(0), 3000, 8)
    exact = uniformity(rows)
    monkeypatch.setattr(module, "_EXACT_ROWS", 1000)
    sampled = uniformity(rows)
    assert sampled == uniformity(rows) != uniformity(rows, seed=1)
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.05)
    assert geometry(rows, rows[:10])["image_uniformity_rows"] == 1000
    assert geometry(rows, rows[:10])["text_uniformity_rows"] == 10


def test_alignment_and_gap_by_hand():
    images = np.array([[1, 0], [0, 1]], np.float32)
    texts = np.array([[-1, 0], [0, 1], [0, -1]], np.float32)
    assert alignment(images, texts, np.array([[0, 0], [1, 1], [1, 2], [0, 1]])) == 10 / 4
    assert modality_gap(images, texts) == pytest.approx(np.hypot(0.5 + 1 / 3, 0.5))
    assert modality_gap(images, images) == 0


def test_effective_rank_by_hand():
    assert effective_rank(np.eye(5, dtype=np.float32)) == pytest.approx(5, abs=1e-12)
    assert effective_rank(np.ones((7, 3), np.float32)) == pytest.approx(1, abs=1e-12)
    rows = np.array([[3, 0], [0, 1]], np.float32)  # shares 3/4 and 1/4
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_rank(rows) == pytest.approx(np.exp(entropy), abs=1e-12)


@pytest.mark.parametrize(("rows", "embed"), [(2500, 64), (30, 64), (1, 4)])
def test_effective_rank_is_that_of_singular_values(rows, embed):
    x = unit(np.random.default_rng(0), rows, embed) * np.linspace(0.01, 1, embed, dtype=np.float32)
    values = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    shares = values / values.sum()
    # Squaring halves the digits: singular values are exact to about 1e-8 of the largest, and
    # as many as there are enter the entropy, each with a slope of at most log(1e8).
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(x) == pytest.approx(expected, rel=embed * 2e-7)


def test_rounding_does_not_raise_the_rank():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(2000, 3)) @ np.linalg.qr(rng.normal(size=(64, 3)))[0].T).astype("f4")
    values = np.linalg.svd(x.astype(np.float64), compute_uv=False)[:3]
    shares = values / values.sum()
    assert effective_rank(x) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert effective_rank(x) <= 3


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(2, 9), st.integers(0, 9))
def test_rotations_and_the_order_of_rows_change_nothing(rows, embed, seed):
    rng = np.random.default_rng(seed)
    images, texts = unit(rng, rows, embed), unit(rng, rows, embed)
    rotation = np.linalg.qr(rng.normal(size=(embed, embed)))[0]
    order = rng.permutation(rows)
    pairs = np.stack([np.arange(rows)] * 2, 1)
    one = geometry(images, texts, pairs=pairs)
    turned = geometry(
        (images @ rotation).astype("f4")[order], (texts @ rotation).astype("f4"),
        pairs=np.stack([np.arange(rows), order], 1),
    )  # fmt: skip
    assert one.keys() == turned.keys()
    for name, value in one.items():
        # float32 rounds the rotated rows by 6e-8 an entry; a rank of few rows may weigh its least
        # singular value by log(1e7).
        assert turned[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert -8 <= one["image_uniformity"] <= 1e-12
    assert 0 <= one["alignment"] <= 4
    assert 0 <= one["modality_gap"] <= 2
    assert 1 - 1e-9 <= one["image_effective_rank"] <= min(rows, embed) + 1e-9


def test_rows_of_zeros_are_left_out():
    rng = np.random.default_rng(0)
    images, texts = unit(rng, 20, 6), unit(rng, 30, 6)
    pairs = np.stack([np.arange(30) % 20, np.arange(30)], 1)
    holes = images.copy()
    holes[[3, 7]] = 0
    kept = np.delete(images, [3, 7], axis=0)
    place = np.cumsum(~np.isin(np.arange(20), [3, 7])) - 1
    whole = pairs[~np.isin(pairs[:, 0], [3, 7])]
    expected = geometry(kept, texts, pairs=np.stack([place[whole[:, 0]], whole[:, 1]], 1))
    assert geometry(holes, texts, pairs=pairs) == expected
    assert expected["images"] == 18


def test_what_has_no_value_is_left_out():
    nothing, some = np.zeros((3, 4), np.float32), unit(np.random.default_rng(0), 1, 4)
    figures = geometry(nothing, some, pairs=np.array([[0, 0]]))
    assert figures == {"images": 0, "texts": 1, "text_effective_rank": pytest.approx(1)}


def test_too_few_rows_are_an_error():
    one, none = np.ones((1, 2), np.float32), np.ones((0, 2), np.float32)
    with pytest.raises(ValueError, match="two rows; there is 1"):
        uniformity(one)
    with pytest.raises(ValueError, match="no pairs"):
        alignment(one, one, np.zeros((0, 2), int))
    with pytest.raises(ValueError, match="images and texts"):
        modality_gap(one, none)
    with pytest.raises(ValueError, match="zero"):
        effective_rank(np.zeros((3, 2), np.float32))
