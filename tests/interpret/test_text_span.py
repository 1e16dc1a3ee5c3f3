import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clipjax.config import UserError
from clipjax.interpret.moments import Moments
from clipjax.interpret.text_span import text_span


def reference(outputs, texts, picks, rank):
    """The algorithm on the outputs themselves, all of them, in float64."""
    outputs = outputs.astype(np.float64)
    _, _, rows = np.linalg.svd(outputs, full_matrices=False)
    rows = rows[:rank]
    texts = texts.astype(np.float64) @ rows.T @ rows
    left = outputs - outputs.mean(axis=0)
    total = (left**2).sum()
    chosen, explained = [], []
    for _ in range(picks):
        best = int((left @ texts.T).var(axis=0).argmax())
        direction = texts[best] / np.linalg.norm(texts[best])
        left = left - np.outer(left @ direction, direction)
        texts = texts - np.outer(texts @ direction, direction)
        chosen.append(best)
        explained.append(1 - (left**2).sum() / total)
    return chosen, explained


def data(seed, images=400, texts=150, embed=24, offset=1.0, decay=1.5):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(embed, embed)) * decay ** -np.arange(embed)[:, None]
    outputs = rng.standard_t(5, size=(images, embed)) @ mixing + offset * rng.normal(size=embed)
    named = rng.normal(size=(texts, embed)) + rng.normal(size=embed)
    return outputs, named / np.linalg.norm(named, axis=1, keepdims=True)


def streamed(outputs, cuts=(1, 7, 250)):
    moments = Moments()
    for batch in np.split(outputs, [cut for cut in cuts if cut < len(outputs)]):
        moments.update(batch)
    return moments


@pytest.mark.parametrize("rank", [6, 24, 80])
@pytest.mark.parametrize("seed", range(6))
def test_picks_are_those_of_the_algorithm_on_all_outputs(seed, rank):
    outputs, texts = data(seed)
    moments = streamed(outputs)
    found = text_span(moments.mean, moments.covariance, texts, picks=6, rank=rank)
    chosen, explained = reference(outputs, texts, 6, rank)
    assert found.texts.tolist() == chosen
    # What is explained inside the leading directions is explained of the whole.
    np.testing.assert_allclose(found.explained, explained, atol=1e-8)


def test_float32_outputs_with_a_large_mean_have_the_same_picks():
    outputs, texts = data(3, offset=30.0, decay=1.2)
    outputs = outputs.astype(np.float32)
    moments = streamed(outputs)
    found = text_span(moments.mean, moments.covariance, texts, picks=5)
    assert found.texts.tolist() == reference(outputs, texts, 5, 24)[0]


def test_planted_directions_are_found_in_the_order_of_their_variance():
    rng = np.random.default_rng(0)
    texts = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    outputs = rng.normal(size=(500, 3)) * [1, 3, 2] @ texts[[4, 9, 20]]
    moments = streamed(outputs)
    found = text_span(moments.mean, moments.covariance, texts, picks=8)
    # Of a sample the directions are not quite apart; three texts explain all there is.
    assert found.texts[:3].tolist() == [9, 20, 4]
    assert len(found.texts) == 3
    assert found.explained[2] == pytest.approx(1, abs=1e-9)


def test_a_text_that_is_there_twice_is_taken_once():
    outputs, texts = data(1)
    best = reference(outputs, texts, 1, 24)[0][0]
    moments = streamed(outputs)
    doubled = np.concatenate([texts, texts[[best]]])
    found = text_span(moments.mean, moments.covariance, doubled, picks=10)
    assert best in found.texts
    assert len(texts) not in found.texts


@settings(max_examples=40, deadline=None)
@given(
    rows=hnp.arrays(np.float64, (12, 2, 3), elements=st.floats(-1e3, 1e3)),
    cuts=st.lists(st.integers(0, 12), max_size=3).map(sorted),
    merged=st.integers(0, 3),
)
def test_moments_do_not_depend_on_how_rows_are_cut(rows, cuts, merged):
    parts = [Moments(), Moments()]
    for number, batch in enumerate(np.split(rows, cuts)):
        parts[number >= merged].update(batch)
    parts[0].merge(parts[1])
    for group in range(2):
        wanted = np.cov(rows[:, group].T, bias=True)
        np.testing.assert_allclose(parts[0].covariance[group], wanted, atol=1e-7)
        second = rows[:, group].T @ rows[:, group] / 12
        np.testing.assert_allclose(parts[0].second[group], second, atol=1e-7)
    np.testing.assert_allclose(parts[0].mean, rows.mean(axis=0), atol=1e-9)
    assert parts[0].rows == 12


def test_what_cannot_be_is_an_error():
    moments = Moments()
    moments.update(np.ones((3, 4)))
    with pytest.raises(UserError, match="does not vary"):
        text_span(moments.mean, moments.covariance, np.eye(4), picks=2)
    with pytest.raises(UserError, match="9 texts of 4"):
        text_span(moments.mean, moments.covariance + np.eye(4), np.eye(4), picks=9)
    with pytest.raises(UserError, match="row 1 of a batch holds NaN"):
        moments.update(np.array([[1.0] * 4, [np.nan] * 4]))
