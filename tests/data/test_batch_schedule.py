import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.batch_schedule import BatchSchedule, every_step
from clipjax.data.order import Order
from clipjax.data.streams import FullShuffle, WindowedShuffle

LANES = 4


@st.composite
def schedules(draw):
    """Up to four stages of sizes that the lanes divide, and up to three skips."""
    firsts = [0, *sorted(draw(st.sets(st.integers(1, 12), max_size=3)))]
    sizes = tuple((first, LANES * draw(st.integers(1, 4))) for first in firsts)
    skip = st.tuples(st.integers(0, 15), st.integers(0, 5))
    return BatchSchedule(sizes=sizes, skips=tuple(sorted(draw(st.lists(skip, max_size=3)))))


@settings(deadline=None)
@given(schedules())
def test_steps_follow_on_each_other_but_for_what_is_left_out(schedule):
    """One batch after the other, by definition."""
    sample = 0
    for step in range(20):
        sample += sum(n for at, n in schedule.skips if at == step) * schedule.size(step)
        assert schedule.first_sample(step) == sample
        sample += schedule.size(step)


@settings(deadline=None)
@given(schedules())
def test_every_sample_has_one_step_or_is_left_out(schedule):
    shown = {}
    for step in range(20):
        first = schedule.first_sample(step)
        shown |= dict.fromkeys(range(first, first + schedule.size(step)), step)
    for sample in range(max(shown) + 1):
        assert schedule.step_of(sample) == shown.get(sample)


@settings(deadline=None, max_examples=40)
@given(schedules(), st.booleans())
def test_each_lane_goes_on_where_it_was(schedule, windowed):
    """The places of a lane ascend by one, whatever the sizes; what is left out has places too."""
    stream = WindowedShuffle(np.full(12, 7), 3, LANES, 2) if windowed else FullShuffle(90, 3, LANES)
    order = Order(streams=(stream,), batches=schedule, seed=3, lanes=LANES)
    last = schedule.first_sample(19) + schedule.size(19)
    lanes, places = order.places(np.arange(last))
    for lane in range(LANES):
        np.testing.assert_array_equal(
            np.sort(places[lanes == lane]), np.arange(last // LANES), err_msg=f"lane {lane}"
        )


@settings(deadline=None, max_examples=40)
@given(schedules(), st.integers(1, 19))
def test_the_turns_of_an_example_are_those_of_the_batches(schedule, stop):
    stream = FullShuffle(30, 5, LANES)
    order = Order(streams=(stream,), batches=schedule, seed=5, lanes=LANES)
    samples = np.concatenate([order.samples(step) for step in range(stop)])
    examples = order.examples(samples)
    for example in (0, 7, 29):
        assert sorted(order.seen(example, stop)) == samples[examples == example].tolist()


def test_without_lanes_the_order_is_a_function_of_the_sample_number():
    """Whatever the sizes and skips."""
    plain = Order(streams=(FullShuffle(50, 1),), batches=every_step(8), seed=1)
    sized = BatchSchedule(sizes=((0, 4), (5, 12)), skips=((2, 3), (7, 1)))
    other = Order(streams=(FullShuffle(50, 1),), batches=sized, seed=1)
    np.testing.assert_array_equal(plain.examples(np.arange(300)), other.examples(np.arange(300)))
    assert other.samples(5)[0] == 4 * 8


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sizes": ()}, "must begin at step 0"),
        ({"sizes": ((1, 4),)}, "must begin at step 0"),
        ({"sizes": ((0, 4), (0, 8))}, "and ascend"),
        ({"sizes": ((0, 0),)}, "must be positive"),
        ({"sizes": ((0, 4),), "skips": ((3, 1), (1, 1))}, "must ascend"),
    ],
)
def test_what_is_no_schedule_is_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        BatchSchedule(**fields)
