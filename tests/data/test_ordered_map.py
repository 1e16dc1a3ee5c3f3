import threading
import time

import numpy as np
import pytest

from clipjax.data.ordered_map import ordered_map


def test_results_come_in_order():
    pauses = np.random.default_rng(0).uniform(0, 0.003, 100)

    def slow(index):
        time.sleep(pauses[index])
        return index

    assert list(ordered_map(slow, range(100), threads=8)) == list(range(100))
    assert list(ordered_map(slow, [], threads=1)) == []


def test_threads_work_at_the_same_time():
    barrier = threading.Barrier(4, timeout=10)
    assert len(list(ordered_map(lambda _: barrier.wait(), range(8), threads=4))) == 8


def test_the_lead_is_bounded():
    taken = 0

    def numbers():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = ordered_map(lambda number: number, numbers(), threads=2)
    for done in range(1, 101):
        next(results)
        assert taken <= done + 8
    results.close()


def test_an_exception_comes_in_its_place_and_ends_the_work():
    begun = []

    def fails(index):
        begun.append(index)
        if index == 5:
            raise ValueError("five")
        return index

    results = ordered_map(fails, range(10_000), threads=2)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert len(begun) < 30
    assert not [t for t in threading.enumerate() if t.name.startswith("ordered-map")]


def test_no_thread_is_left_when_nobody_goes_on():
    results = ordered_map(lambda number: number, range(10_000), threads=3)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("ordered-map")]
