import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.batch_schedule import every_step
from clipjax.data.order import Order, shuffled
from clipjax.data.streams import FullShuffle, WindowedShuffle, WithReplacement


def order(num_examples=48, global_batch_size=8, seed=0):
    return shuffled(num_examples=num_examples, global_batch_size=global_batch_size, seed=seed)


def test_an_epoch_is_every_example_once_and_the_next_is_reshuffled():
    epochs = [order(seed=1).examples(np.arange(a, a + 48)) for a in (0, 48, 96)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(48))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_seeds_give_different_orders():
    first = {tuple(order(seed=seed).examples(np.arange(48))) for seed in range(20)}
    assert len(first) == 20


def test_a_batch_may_span_epochs():
    """7 examples in batches of 16: each of the two whole epochs inside is complete."""
    ragged = order(num_examples=7, global_batch_size=16)
    run = np.concatenate([ragged.examples(ragged.samples(step)) for step in range(7)])
    for epoch in run.reshape(16, 7):
        assert sorted(epoch) == list(range(7))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**9), st.lists(st.integers(0, 4), min_size=16, max_size=16))
def test_the_union_over_any_split_of_rows_is_the_whole_batch(step, host_of_row):
    whole = order(num_examples=50, global_batch_size=16, seed=3)
    expected = whole.examples(whole.samples(step))
    got = np.full(16, -1)
    for host in range(5):
        rows = np.flatnonzero(np.array(host_of_row) == host)
        got[rows] = whole.examples(whole.samples(step, rows))
    np.testing.assert_array_equal(got, expected)


def test_replacements_are_a_function_of_sample_and_attempt():
    one = order(num_examples=1000)
    table = np.array([[one.replacement(s, a) for a in range(5)] for s in range(50)])
    again = np.array([[one.replacement(s, a) for a in range(5)] for s in reversed(range(50))])
    np.testing.assert_array_equal(table, again[::-1])
    assert ((table >= 0) & (table < 1000)).all()
    assert len(np.unique(table)) > 200  # of 250 draws of 1,000 about 221 are distinct


def test_order_does_not_change_between_versions():
    """Golden: another order breaks the resume of running jobs. Change it only on purpose."""
    assert order().examples(np.arange(8)).tolist() == [40, 47, 10, 43, 18, 46, 7, 14]
    assert order().examples(np.arange(48, 54)).tolist() == [11, 37, 24, 36, 45, 42]
    big = order(num_examples=400_000_000, seed=2**63)
    assert big.examples(np.array([0, 1, 399_999_999, 400_000_000])).tolist() == GOLDEN_BIG
    assert [order(num_examples=1000).replacement(5, a) for a in range(3)] == GOLDEN_REPLACEMENTS


GOLDEN_BIG = [47361575, 382811944, 380590496, 395240417]
GOLDEN_REPLACEMENTS = [671, 511, 805]


def mixed(lanes=2, batch=8):
    """Three sources: all shuffled, drawn with replacement, and shuffled in windows."""
    streams = (
        FullShuffle(41, 1, lanes),
        WithReplacement(17, 2, lanes),
        WindowedShuffle(np.array([5, 9, 20]), 3, lanes, 2),
    )
    return Order(
        streams=streams,
        batches=every_step(batch),
        seed=4,
        lanes=lanes,
        weights=(1.0, 0.7, 2.0),
    )


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_seen_is_examples_backwards(lanes):
    order, steps = mixed(lanes), 60
    samples = np.arange(8 * steps)
    examples = order.examples(samples)
    for example in range(0, order.num_examples, 9):
        assert sorted(order.seen(example, steps)) == samples[examples == example].tolist()


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_any_number_of_hosts_makes_the_same_mixed_batches(hosts):
    order = mixed(lanes=4)
    for step in (0, 17, 10**6):
        whole = order.examples(order.samples(step))
        parts = np.arange(8).reshape(hosts, -1)
        got = np.concatenate([order.examples(order.samples(step, rows)) for rows in parts])
        np.testing.assert_array_equal(got, whole)


def test_the_share_of_each_source_is_its_weight():
    order = mixed()
    sources = [order.source_of(int(e))[0] for e in order.examples(np.arange(8 * 4096))]
    counts = np.bincount(sources) / len(sources)
    np.testing.assert_allclose(counts, np.array(order.weights) / sum(order.weights), atol=1e-3)


def test_the_forecast_of_epochs():
    order = mixed()
    expected = [800 * w / 3.7 / n for w, n in zip((1, 0.7, 2), (41, 17, 34), strict=True)]
    np.testing.assert_allclose(order.epochs(100), expected)


def test_lanes_let_hosts_read_their_own_shards():
    """64 shards, 8 lanes, 4 hosts: an epoch touches each shard from one host, cut ones from two."""
    stream = WindowedShuffle(np.full(64, 100), 0, 8, 4)
    order = Order(streams=(stream,), batches=every_step(32), seed=0, lanes=8)
    hosts_of = {shard: set() for shard in range(64)}
    for step in range(64 * 100 // 32):
        for host, rows in enumerate(np.arange(32).reshape(4, 8)):
            for example in order.examples(order.samples(step, rows)):
                hosts_of[int(example) // 100].add(host)
    assert sum(len(hosts) for hosts in hosts_of.values()) <= 64 + 3


def test_what_does_not_fit_together_is_refused():
    stream = FullShuffle(10, 0, 3)
    with pytest.raises(ValueError, match="lanes=3 must divide the batch size 8"):
        Order(streams=(stream,), batches=every_step(8), seed=0, lanes=3)
    with pytest.raises(ValueError, match="2 weights for 1 sources"):
        Order(streams=(stream,), batches=every_step(9), seed=0, lanes=3, weights=(1.0, 2.0))


def test_replacements_of_a_mixture_come_from_the_same_source():
    order = mixed()
    for sample in range(200):
        source = order.source_of(int(order.examples(np.array([sample]))[0]))[0]
        assert {order.source_of(order.replacement(sample, a))[0] for a in range(4)} == {source}


@pytest.mark.slow
def test_internet_scale_on_paper():
    """1.3 million shards and 12.8 billion samples: a batch of 32,768 and its way back."""
    counts = np.full(1_300_000, 9846)
    start = time.perf_counter()
    stream = WindowedShuffle(counts, 5, 64, 8)
    order = Order(streams=(stream,), batches=every_step(32_768), seed=5, lanes=64)
    examples = order.examples(order.samples(41_234))
    assert time.perf_counter() - start < 10
    assert len(set(examples.tolist())) == 32_768
    start = time.perf_counter()
    assert 41_234 * 32_768 + 77 in list(order.seen(int(examples[77]), 390_625))
    assert time.perf_counter() - start < 2
