import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.keyed import mix, uniforms

KEYS = st.integers(0, 2**64 - 1)


def splitmix64(x):
    """The published finaliser with Python's integers, after adding the golden gamma."""
    word = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & word
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & word
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & word
    return x ^ (x >> 31)


def test_mix_equals_the_first_outputs_of_splitmix64():
    """Seed 1234567: the values printed with the reference implementation of the generator."""
    state, out = 1234567, []
    for _ in range(3):
        out.append(int(mix(np.uint64(state))))
        state = (state + 0x9E3779B97F4A7C15) % 2**64
    assert out == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.lists(KEYS, min_size=1, max_size=10))
def test_mix_equals_the_definition_in_whole_numbers(values):
    assert mix(np.array(values, np.uint64)).tolist() == [splitmix64(v) for v in values]


@given(KEYS, KEYS, st.integers(0, 2**32), st.integers(1, 50), st.integers(0, 49))
def test_a_number_does_not_depend_on_how_many_are_drawn(seed, sample, stream, count, place):
    many = uniforms(seed, sample, stream, max(count, place + 1))
    assert many[place] == uniforms(seed, sample, stream, place + 1)[place]
    assert ((many >= 0) & (many < 1)).all()


def test_numbers_do_not_depend_on_the_order_of_the_calls():
    keys = [(seed, sample, stream) for seed in (0, 5) for sample in range(20) for stream in (2, 3)]
    forward = {key: uniforms(*key, 3).tolist() for key in keys}
    backward = {key: uniforms(*key, 3).tolist() for key in reversed(keys)}
    assert forward == backward
    assert len({tuple(v) for v in forward.values()}) == len(keys)


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_numbers_are_uniform_over_samples_streams_and_places(seed):
    """Chi-squared of 50 bins along each of the three keys, and of 10 x 10 pairs of neighbours."""
    along = {
        "samples": np.array([uniforms(seed, s, 1, 1)[0] for s in range(5000)]),
        "streams": np.array([uniforms(seed, 1, s, 1)[0] for s in range(5000)]),
        "places": uniforms(seed, 1, 1, 5000),
    }
    for name, draws in along.items():
        counts = np.histogram(draws, bins=50, range=(0, 1))[0]
        pairs = np.histogram2d(draws[:-1], draws[1:], bins=10, range=[(0, 1), (0, 1)])[0]
        for table in (counts, pairs):
            mean = table.sum() / table.size
            statistic = ((table - mean) ** 2 / mean).sum()
            df = table.size - 1
            assert statistic < df + 5 * np.sqrt(2 * df), name
