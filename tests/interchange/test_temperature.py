"""A temperature there, the logarithm of its inverse in two parts here: every bit comes back."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config import UserError, preset
from clipjax.interchange.layout import Entry, Layout
from clipjax.interchange.transfer import read_params, written
from clipjax.models import init_model_state, param_shapes

SMALLEST, LARGEST = 2.0**-149, float(np.finfo(np.float32).max)


def entry(rest="rest"):
    return Entry(ours="log_logit_scale", theirs=("temperature",), kind="temperature", rest=rest)


def there_and_back(temperature):
    """As `read_params` splits it and `written` joins it, for many numbers at once."""
    whole = entry().read([temperature], temperature.shape)
    first = whole.astype(np.float32)
    rest = np.asarray(whole - first, np.float32)
    (back,) = entry().write(np.asarray(first.astype(np.float64) + rest))
    return first, rest, back


def test_every_float_of_the_usual_temperatures_comes_back():
    """A stretch of each octave from 2^-20 to 2^20, one float after the other, and its ends."""
    for octave in range(-20, 21):
        start = np.float32(2.0**octave).view(np.int32)
        places = [start + np.arange(20_000), start + 2**23 - np.arange(1, 20_001)]
        places.append(start + np.random.default_rng(octave + 20).integers(0, 2**23, 20_000))
        temperature = np.concatenate(places).astype(np.int32).view(np.float32)
        first, rest, back = there_and_back(temperature)
        np.testing.assert_array_equal(back.view(np.int32), temperature.view(np.int32))
        assert np.abs(rest).max() <= np.spacing(np.abs(first).max()) / 2


@given(st.floats(min_value=SMALLEST, max_value=LARGEST, width=32))
def test_every_positive_float_comes_back(temperature):
    temperature = np.array(temperature, np.float32)
    _, _, back = there_and_back(temperature)
    assert back.dtype == np.float32
    assert back.shape == ()
    assert back == temperature


def test_without_the_rest_neighbours_fall_together():
    """Why it is kept: one float of the logarithm stands for several temperatures."""
    start = np.float32(0.0166).view(np.int32)
    temperature = (start + np.arange(64)).astype(np.int32).view(np.float32)
    first, _, back = there_and_back(temperature)
    assert len(np.unique(first)) < 32
    assert len(np.unique(back)) == 64


def test_one_has_the_logarithm_zero_and_not_minus_zero():
    first, rest, _ = there_and_back(np.array(1.0, np.float32))
    assert not np.signbit(first)
    assert not np.signbit(rest)


@pytest.mark.parametrize("value", [0.0, -0.5, np.inf, np.nan])
def test_what_is_no_temperature_is_refused(value):
    with pytest.raises(UserError, match=r"temperature=.*expected a positive number"):
        entry().read([np.array(value, np.float32)], ())


class Held:
    source = "memory"

    def __init__(self, tensors):
        self.tensors = tensors

    def shapes(self):
        return {name: array.shape for name, array in self.tensors.items()}

    def read(self, name):
        return self.tensors[name]


@pytest.fixture(scope="module")
def config():
    """ALIGN, of which the layout of these tests holds the temperature only."""
    return preset("align-base")


def test_a_model_reads_and_writes_it_with_and_without_the_rest(config):
    temperature = np.array(0.016612, np.float32)
    layout = Layout(format="test", entries=(entry("log_logit_scale_rest"),))
    params = dict(read_params(layout, config, Held({"temperature": temperature})))
    assert params.keys() == {"log_logit_scale", "log_logit_scale_rest"}
    assert all(array.dtype == np.float32 for array in params.values())
    np.testing.assert_allclose(np.exp(params["log_logit_scale"]), 1 / temperature, rtol=1e-6)
    assert dict(written(layout, config, params))["temperature"] == temperature
    # After training: the rest is too small to be seen.
    params["log_logit_scale"] = np.asarray(params["log_logit_scale"] - np.float32(0.25))
    trained = dict(written(layout, config, params))["temperature"]
    np.testing.assert_allclose(trained, temperature * np.exp(0.25), rtol=1e-6)
    plain = dataclasses.replace(config, exact_temperature=False)
    layout = Layout(format="test", entries=(entry(None),))
    params = dict(read_params(layout, plain, Held({"temperature": temperature})))
    assert params.keys() == {"log_logit_scale"}
    back = dict(written(layout, plain, params))["temperature"]
    np.testing.assert_allclose(back, temperature, rtol=1e-6)


def test_the_rest_is_model_state_and_no_parameter(config):
    tiny = dataclasses.replace(
        config,
        image=dataclasses.replace(config.image, width_factor=0.25, depth_factor=0.3),
        embed_dim=80,
    )
    assert param_shapes(tiny)["log_logit_scale_rest"] == ()
    assert init_model_state(tiny)["log_logit_scale_rest"] == 0
    without = dataclasses.replace(tiny, exact_temperature=False)
    assert "log_logit_scale_rest" not in param_shapes(without)
