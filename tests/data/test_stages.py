import threading
import time

import pytest

from clipjax.data.stages import StageClock, shares, verdict


def test_laps_add_up_to_the_time_that_passed():
    clock = StageClock()
    start = time.perf_counter()
    clock.start()
    time.sleep(0.05)
    clock.lap("read")
    time.sleep(0.02)
    clock.lap("decode")
    elapsed = time.perf_counter() - start
    seconds = clock.seconds()
    assert seconds["read"] >= 0.05
    assert seconds["decode"] >= 0.02
    assert sum(seconds.values()) <= elapsed


def test_each_thread_has_its_own_watch_and_all_count():
    clock, barrier = StageClock(), threading.Barrier(4)

    def work():
        clock.start()
        barrier.wait()
        time.sleep(0.05)
        clock.lap("decode")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds()["decode"] >= 0.2


def test_shares_are_of_the_time_between_two_readings():
    before = {"read": 10.0, "decode": 1.0, "idle": 3.0}
    after = {"read": 11.0, "decode": 3.0, "idle": 3.0, "tokenize": 1.0}
    found = shares(before, after)
    assert list(found) == ["decode", "read", "tokenize"]
    assert found == {"decode": 0.5, "read": 0.25, "tokenize": 0.25}
    assert shares(after, after) == {}
    assert shares({}, {}) == {}


@pytest.mark.parametrize(
    ("wait", "said"), [(0.0, False), (0.05, False), (0.0501, True), (1.0, True)]
)
def test_the_verdict_is_for_more_than_five_per_cent(wait, said):
    text = verdict(wait, {"decode": 0.8, "read": 0.2})
    assert text.endswith("decode 80 %, read 20 %") if said else text == ""
