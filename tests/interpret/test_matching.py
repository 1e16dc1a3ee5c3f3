import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import UserError
from clipjax.interpret.alignment import alignments
from clipjax.interpret.matching import PairSums, match_units, mutual_pairs


def network(stimuli=400, units=64, seed=0, inputs=24):
    """Hidden units of a random layer with ReLU, and the stimuli and weights behind them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(stimuli, inputs))
    weights = rng.normal(size=(inputs, units))
    return np.maximum(x @ weights, 0), x, weights


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_permuted_network_is_found_again(noise):
    """Units in another order, of other scale and offset, and trained a little apart."""
    hidden, x, weights = network()
    rng = np.random.default_rng(1)
    order, scale = rng.permutation(64), 10.0 ** rng.uniform(-3, 3, 64)
    other = np.maximum(x @ (weights + noise * rng.normal(size=weights.shape)), 0)
    found = match_units(hidden, other[:, order] * scale - 7, shuffles=20)
    right = sum(order[b] == a for a, b in found.pairs.tolist())
    assert right >= 0.99 * 64
    assert right >= 0.99 * len(found.pairs)
    assert found.q_value.max() < 0.05
    assert found.null_pairs.max() == 0
    assert found.enrichment == float("inf")


def test_networks_that_share_nothing_have_no_pairs_that_count():
    """Mutual best partners always exist; against shuffles they are nothing."""
    first, second = network(seed=0)[0], network(seed=1)[0]
    counts = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        found = match_units(first, second[rng.permutation(400)], shuffles=10, seed=seed)
        assert len(found.pairs) > 5
        counts.append(int((found.q_value <= 0.05).sum()))
    # One run in twenty may find any, so of three hardly two.
    assert sum(count > 0 for count in counts) <= 1


def test_p_values_are_uniform_where_there_is_nothing():
    rng = np.random.default_rng(0)
    p_values = [
        match_units(rng.normal(size=(50, 4)), rng.normal(size=(50, 4)), shuffles=20, seed=s).p_value
        for s in range(40)
    ]
    # Of mutual pairs, which are a choice of the better ones: p is small at most twice as often.
    assert 0 < (np.concatenate(p_values) <= 0.05).mean() < 0.15


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 20), max_size=3).map(sorted),
    merged=st.integers(0, 3),
    offset=st.sampled_from([0.0, 1e6]),
)
def test_correlations_do_not_depend_on_batches(seed, cuts, merged, offset):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(20, 4)) ** 3 + offset
    a[:, 2] = 5.0
    parts = [PairSums(), PairSums()]
    for number, rows in enumerate(np.split(np.arange(20), cuts)):
        parts[number >= merged].update(a[rows], b[rows])
    parts[0].merge(parts[1])
    found = parts[0].correlations()
    wanted = np.corrcoef(a[:, :2].T, b.T)[:2, 2:]
    # With an offset of 1e6, float64 leaves ten digits of an activation.
    np.testing.assert_allclose(found[:2], wanted, atol=1e-8)
    assert np.isnan(found[2]).all()


def test_pairs_are_mutual():
    correlations = np.array([[0.9, 0.8, np.nan], [0.95, 0.1, np.nan], [0.2, 0.3, np.nan]])
    assert mutual_pairs(correlations).tolist() == [[1, 0]]
    assert mutual_pairs(correlations, neighbours=2).tolist() == [[0, 0], [0, 1], [1, 0], [2, 1]]
    ties = np.full((2, 2), 0.5)
    assert mutual_pairs(ties).tolist() == [[0, 0]]


def by_hand(first, second, k):
    """The three measures from their definitions, pair by pair."""
    a, b = (x - x.mean(axis=0) for x in (first, second))
    count = len(a)
    centre = np.eye(count) - 1 / count

    def hsic(k1, k2):
        return np.trace(k1 @ centre @ k2 @ centre)

    ka, kb = first @ first.T, second @ second.T
    cka = hsic(ka, kb) / np.sqrt(hsic(ka, ka) * hsic(kb, kb))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))

    def neighbours(x):
        order = [sorted(set(range(count)) - {i}, key=lambda j: -x[i] @ x[j]) for i in range(count)]
        return [set(row[:k]) for row in order]

    near_a, near_b = neighbours(a), neighbours(b)
    mutual = np.mean([len(one & other) / k for one, other in zip(near_a, near_b, strict=True)])

    def aligned(x, near_x, y, near_y):
        total = 0.0
        for i in range(count):
            for j in near_x[i] & near_y[i]:
                total += (x[i] @ x[j] - (x @ x[i]).mean()) * (y[i] @ y[j] - (y @ y[i]).mean())
        return total

    cknna = aligned(a, near_a, b, near_b) / np.sqrt(
        aligned(a, near_a, a, near_a) * aligned(b, near_b, b, near_b)
    )
    return {"cka": cka, "cknna": cknna, "mutual_neighbours": mutual}


def test_alignments_are_their_definitions():
    first, x, _ = network(40, 12)
    second = np.tanh(x @ np.random.default_rng(3).normal(size=(24, 5)))
    found = alignments(first, second, neighbours=4, shuffles=20)
    for name, value in by_hand(first, second, 4).items():
        assert found[name].value == pytest.approx(value, rel=1e-9), name


def test_a_rotation_is_the_same_placing_and_a_shuffle_is_not():
    first, _, _ = network(80, 16)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    same = alignments(first, 3 * first @ turn, neighbours=5, shuffles=40)
    shuffled = alignments(first, first[np.random.default_rng(7).permutation(80)], shuffles=40)
    for name, found in same.items():
        assert found.value == pytest.approx(1), name
        assert found.p_value == pytest.approx(1 / 41), name
        assert shuffled[name].p_value > 0.02, name
    # CKA of many units and few stimuli is far above 0 without any likeness: hence the null.
    assert same["cka"].null_mean > 0.1


def test_what_cannot_be_is_an_error():
    with pytest.raises(UserError, match="11 stimuli are too few for 10 neighbours"):
        alignments(np.zeros((11, 2)), np.zeros((11, 2)))
    with pytest.raises(UserError, match="same to all stimuli"):
        alignments(np.ones((20, 2)), np.ones((20, 2)))
    with pytest.raises(UserError, match="unit 1: its activation in row 2"):
        match_units(np.eye(3) * [1, 1, 1] + 0, np.array([[0, 0], [0, 0], [0, np.nan]]))
    with pytest.raises(ValueError, match="needs two"):
        PairSums().correlations()
