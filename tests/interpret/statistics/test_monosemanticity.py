import time

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.interpret.statistics.monosemanticity import CrossModalMonosemanticity, Monosemanticity


def scaled(activations):
    low, high = activations.min(axis=0), activations.max(axis=0)
    return (activations - low) / (high - low)


def cosines(first, second):
    first, second = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (first, second))
    return first @ second.T


def by_pairs(activations, embeds):
    """The definition: all pairs of two different stimuli."""
    a, similar = scaled(activations), cosines(embeds, embeds)
    np.fill_diagonal(similar, 0)
    apart = 1 - np.eye(len(a))
    return (a * (similar @ a)).sum(axis=0) / (a * (apart @ a)).sum(axis=0)


def data(stimuli=300, units=6, embed=16, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    embeds = rng.normal(size=(stimuli, embed)) + 0.5
    activations = np.maximum(embeds[:, :units] + rng.normal(size=(stimuli, units)), 0)
    return (activations * 10.0 ** (np.arange(units) % 6 - 3) + offset), embeds


@pytest.mark.parametrize("offset", [0.0, -3.0, 1e6])
def test_one_pass_is_all_pairs(offset):
    activations, embeds = data(offset=offset)
    sums = Monosemanticity()
    for rows in np.split(np.arange(300), [7, 100, 100, 250]):
        sums.update(activations[rows], embeds[rows])
    result = sums.result()
    np.testing.assert_allclose(result.score, by_pairs(activations, embeds), atol=1e-6)
    similar = cosines(embeds, embeds)
    baseline = similar[~np.eye(300, dtype=bool)].mean()
    assert result.baseline == pytest.approx(baseline, rel=1e-10)
    np.testing.assert_allclose(result.ratio, result.score / baseline)
    assert result.stimuli == 300


def test_merging_is_one_pass_whatever_the_order():
    activations, embeds = data(offset=5.0)
    parts = []
    for rows in np.split(np.arange(300), [40, 200]):
        parts.append(Monosemanticity())
        for batch in np.array_split(rows, 3):
            parts[-1].update(activations[batch], embeds[batch])
    whole = Monosemanticity()
    for part in parts[::-1]:
        whole.merge(part)
    whole.merge(Monosemanticity())
    np.testing.assert_allclose(whole.result().score, by_pairs(activations, embeds), atol=1e-9)


def test_scale_and_offset_of_a_unit_do_not_matter():
    activations, embeds = data()
    first, second = Monosemanticity(), Monosemanticity()
    first.update(activations, embeds)
    second.update(activations * 7 - 3, embeds * 11)
    np.testing.assert_allclose(first.result().score, second.result().score, rtol=1e-9)


def test_a_unit_of_one_meaning_has_one_and_a_constant_unit_none():
    embeds = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    activations = np.array([[1.0, 1, 2], [1, 0, 2], [0, 1, 2], [0, 0, 2]])
    sums = Monosemanticity()
    sums.update(activations, embeds)
    assert sums.result().score[:2].tolist() == [1, 0]
    assert np.isnan(sums.result().score[2])
    single = Monosemanticity()
    single.update(np.array([[0.0], [0], [3], [0]]), embeds)
    assert np.isnan(single.result().score[0])  # one stimulus makes no pair


def cross_by_pairs(a, e, b, f, paired):
    """The definition; the first `paired` rows of both are the same things."""
    a, b, similar = scaled(a), scaled(b), cosines(e, f)
    apart = np.ones(similar.shape)
    apart[np.arange(paired), np.arange(paired)] = 0
    similar = similar * apart
    score = (a * (similar @ b)).sum(axis=0) / (a * (apart @ b)).sum(axis=0)
    return score, similar.sum() / apart.sum()


@pytest.mark.parametrize("paired", [0, 120, 200])
def test_across_facets_one_pass_is_all_pairs(paired):
    a, e = data(200, offset=4.0)
    b, f = data(250, seed=1, offset=-9.0)
    sums = CrossModalMonosemanticity()
    sums.update_second(b[paired:], f[paired:])
    for rows in (slice(0, paired // 2), slice(paired // 2, paired)):
        sums.update_pairs(a[rows], e[rows], b[rows], f[rows])
    sums.update_first(a[paired:], e[paired:])
    result = sums.result()
    score, baseline = cross_by_pairs(a, e, b, f, paired)
    np.testing.assert_allclose(result.score, score, atol=1e-6)
    assert result.baseline == pytest.approx(baseline, rel=1e-9)
    assert result.stimuli == 200


def test_across_facets_a_unit_must_mean_the_same_in_both():
    things = np.repeat(np.eye(4), 10, axis=0)
    same = things[:, [0]]
    sums, crossed = CrossModalMonosemanticity(), CrossModalMonosemanticity()
    sums.update_pairs(same, things, same, things)
    crossed.update_pairs(same, things, things[:, [1]], things)
    assert sums.result().score.tolist() == [1]
    assert sums.result().ratio[0] == pytest.approx(39 / 9)
    assert crossed.result().score.tolist() == [0]


@pytest.mark.serial
def test_one_pass_is_twenty_times_as_fast_as_pairs_unit_by_unit():
    activations, embeds = data(3_000, 12, 64)
    started = time.perf_counter()
    similar = cosines(embeds, embeds)
    reference = []
    for column in scaled(activations).T:
        weights = np.outer(column, column)
        np.fill_diagonal(weights, 0)
        reference.append((weights * similar).sum() / weights.sum())
    middle = time.perf_counter()
    sums = Monosemanticity()
    for first in range(0, 3_000, 500):
        sums.update(activations[first : first + 500], embeds[first : first + 500])
    score = sums.result().score
    ended = time.perf_counter()
    np.testing.assert_allclose(score, reference, atol=1e-6)
    assert middle - started > 20 * (ended - middle)


def test_what_has_no_direction_or_is_no_number_is_an_error():
    activations, embeds = data(5)
    with pytest.raises(UserError, match="row 2 of the batch has length 0"):
        Monosemanticity().update(activations, embeds * (np.arange(5) != 2)[:, None])
    activations[3, 1] = np.nan
    with pytest.raises(UserError, match="unit 1: its activation in row 3"):
        CrossModalMonosemanticity().update_first(activations, embeds)


def test_nothing_seen_is_an_error():
    with pytest.raises(ValueError, match="0 stimuli were seen"):
        Monosemanticity().result()
    with pytest.raises(ValueError, match="no pair of different things"):
        CrossModalMonosemanticity().result()
