"""What devices keep of activations, against NumPy that has all of them at hand."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import MeshConfig
from clipjax.core.mesh import make_mesh
from clipjax.interpret import accumulators
from clipjax.interpret.accumulators import Accumulators
from clipjax.interpret.statistics.ranks import facet_scores, of_rank_sums
from clipjax.interpret.summaries import summarise

ROWS, UNITS, CONCEPTS, BATCH = 300, 13, 4, 32
FIELDS = [field.name for field in dataclasses.fields(summarise(np.zeros((1, 1), np.float32)))]


@pytest.fixture(scope="module", params=[(1, 256), (8, 256), (1, 1), (8, 1)])
def sums(request):
    """On some devices; units above the second number have their exemplars replaced together."""
    devices, few = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulators, "_FEW", few)
        mesh = make_mesh(MeshConfig(fsdp=devices), num_devices=devices)
        yield Accumulators(mesh, UNITS, concepts=CONCEPTS, bins=16, exemplars=7)


def activations(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((ROWS, UNITS)).astype(np.float32)
    x[:, :4] = np.maximum(x[:, :4], 0)  # ties at 0
    x[:, 4] = 0  # dead
    x[:, 5] = -np.abs(x[:, 5]) * 0.0  # -0.0
    x[:, 6] = np.round(x[:, 6])  # many ties
    x[:, 7] = 1000 + 1e-2 * x[:, 7]  # a mean that squares would drown in
    return x


def fed(sums, x, *, pilot=None, order=None, labels=None, state=None, seen=slice(None)):
    """The state behind rows of x in an order, in batches of which the last is not full."""
    order = np.random.default_rng(1).permutation(len(x)) if order is None else order
    labels = np.zeros((len(x), CONCEPTS), bool) if labels is None else labels
    state = sums.begin(x if pilot is None else pilot) if state is None else state
    codes = np.zeros(x.shape, np.int64)
    for start in range(0, len(order), BATCH)[seen]:
        part = order[start : start + BATCH]
        rows = np.full(BATCH, -1)
        rows[: len(part)] = part
        # What does not count must not be seen: large, and positive for every concept.
        units = np.full((BATCH, sums.padded), 1e30, np.float32)
        units[: len(part), :UNITS] = x[part]
        of_rows = np.ones((BATCH, CONCEPTS), bool)
        of_rows[: len(part)] = labels[part]
        state, found = sums.add(state, jax.device_put(units, sums.by_column), rows, of_rows)
        codes[part] = np.asarray(found)[: len(part), :UNITS]
    return state, codes


def on_host(state):
    return {name: np.asarray(array) for name, array in state.items()}


def test_equal_to_numpy(sums):
    x = activations()
    state, codes = fed(sums, x)
    found, wanted = sums.summary(on_host(state)), summarise(x, bins=16, exemplars=7)
    for name in FIELDS:
        np.testing.assert_allclose(
            getattr(found, name), getattr(wanted, name), rtol=1e-6, atol=1e-6, err_msg=name
        )
    np.testing.assert_array_equal(found.top_rows, wanted.top_rows)
    np.testing.assert_array_equal(found.bottom_rows, wanted.bottom_rows)
    by_hand = [
        np.searchsorted(edge, column + 0.0, side="right")
        for edge, column in zip(wanted.edges, x.T, strict=True)
    ]
    np.testing.assert_array_equal(codes.T, by_hand)
    # float32 has 1e-7 of 1000; without a shift the variance of unit 7 would be noise.
    assert found.deviation[7] == pytest.approx(x[:, 7].astype(np.float64).std(), rel=1e-3)


def test_the_order_does_not_matter(sums):
    x = activations(3)
    one, _ = fed(sums, x, order=np.arange(ROWS))
    other, _ = fed(sums, x, order=np.arange(ROWS)[::-1])
    for name in FIELDS:
        one_of, other_of = (getattr(sums.summary(on_host(s)), name) for s in (one, other))
        np.testing.assert_allclose(one_of, other_of, rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(
        sums.summary(on_host(one)).top_rows, sums.summary(on_host(other)).top_rows
    )


def test_fewer_rows_than_exemplars(sums):
    x = activations()[:5]
    found = sums.summary(on_host(fed(sums, x)[0]))
    assert (found.top_rows[:, 5:] == -1).all()
    assert np.isnan(found.bottom_values[:, 5:]).all()
    np.testing.assert_array_equal(found.top_rows, summarise(x, bins=16, exemplars=7).top_rows)


def test_rank_sums_give_auroc(sums):
    """All codes are of 15 bins here, so a rank is wrong by at most 1/30 of the rows."""
    x, rng = activations(5), np.random.default_rng(7)
    labels = rng.random((ROWS, CONCEPTS)) < 0.2
    x[labels[:, 0], 8] += 2.0
    state, _ = fed(sums, x, labels=labels)
    positives = labels.sum(axis=0)
    found, _ = of_rank_sums(
        sums.rank_sums(on_host(state), positives), np.ones(UNITS), positives, ROWS
    )
    wanted = facet_scores(x, labels).auroc
    assert np.abs(found - wanted).max() < 0.02
    assert wanted[8, 0] > 0.85
    np.testing.assert_allclose(found[4], 0.5, atol=1e-6)  # dead


def test_the_mean_rank_of_everything_is_known(sums):
    """A concept of all stimuli has the sum of all ranks, however unlike them the pilot was."""
    x = activations(6)
    labels = np.zeros((ROWS, CONCEPTS), bool)
    labels[:, 1] = True
    state, _ = fed(sums, x, pilot=x[:40] + 0.5, labels=labels)
    found = sums.rank_sums(on_host(state), labels.sum(axis=0))
    np.testing.assert_allclose(found[:, 1], ROWS * (ROWS + 1) / 2, rtol=1e-5)
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 1e-42, 0.5, 3.0]), min_size=1, max_size=90))
def test_exemplars_of_ties(numbers):
    """Of equal activations those of smaller rows, whatever the order in which they come."""
    mesh = make_mesh(MeshConfig(fsdp=1), num_devices=1)
    if not hasattr(test_exemplars_of_ties, "sums"):
        test_exemplars_of_ties.sums = Accumulators(
            mesh, UNITS, concepts=CONCEPTS, bins=16, exemplars=7
        )
    x = np.repeat(np.array(numbers, np.float32)[:, None], UNITS, axis=1)
    order = np.random.default_rng(len(numbers)).permutation(len(x))
    state, _ = fed(test_exemplars_of_ties.sums, x, order=order)
    found = test_exemplars_of_ties.sums.summary(on_host(state))
    # The processor takes 1e-42, which is below the smallest normal number, for 0.
    wanted = summarise(np.where(np.abs(x) < 1e-38, 0, x), bins=16, exemplars=7)
    np.testing.assert_array_equal(found.top_rows, wanted.top_rows)
    np.testing.assert_array_equal(found.bottom_rows, wanted.bottom_rows)
    assert found.counts.sum(axis=1).tolist() == [len(x)] * UNITS


def test_sums_lose_nothing():
    """What is small beside the sum so far is kept: float32 alone would give 0.125 here."""
    mesh = make_mesh(MeshConfig(fsdp=1), num_devices=1)
    sums = Accumulators(mesh, 1, concepts=1, bins=3, exemplars=1)
    state, labels = sums.begin(np.zeros((1, 1), np.float32)), np.zeros((BATCH, 1), bool)
    numbers = [1e6, *[0.1] * 298, -1e6]
    for place, number in enumerate(numbers):
        units = jax.device_put(np.full((BATCH, 1), number, np.float32), sums.by_column)
        state, _ = sums.add(state, units, place * BATCH + np.arange(BATCH), labels)
    found = sums.summary(on_host(state))
    assert found.mean[0] == pytest.approx(0.1 * 298 / 300, rel=1e-6)
