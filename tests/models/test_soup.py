import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config import ComputeConfig, DualEncoderConfig, UserError
from clipjax.models.soup import check_same, greedy_soup, interpolate, soup


def model(seed, **more):
    rng = np.random.default_rng(seed)
    shapes = {"image/project/kernel": (3, 4), "text/norm/bias": (4,), "log_logit_scale": ()}
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()} | more


@given(share=st.floats(-1, 2, width=32))
def test_interpolation_is_linear(share):
    a, b = model(0), model(1)
    for name, found in interpolate(a, b, share).items():
        expected = a[name].astype(float) + share * (b[name].astype(float) - a[name].astype(float))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
        assert found.dtype == np.float32
        assert found.shape == a[name].shape


@pytest.mark.parametrize(("share", "which"), [(0.0, 0), (1.0, 1)])
def test_at_the_ends_stands_a_model_bit_by_bit(share, which):
    models = [model(0), model(1)]
    for name, found in interpolate(*models, share).items():
        assert found.tobytes() == models[which][name].tobytes()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_a_soup_of_one_model_is_the_model_bit_by_bit(count):
    one = model(4)
    for name, found in soup([one] * count).items():
        assert found.tobytes() == one[name].tobytes()


def test_a_soup_is_the_mean():
    models = [model(seed) for seed in range(5)]
    for name, found in soup(models).items():
        expected = np.mean([m[name].astype(np.float64) for m in models], axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_the_greedy_soup_takes_what_does_not_harm():
    """Scores by the distance to 1: of 0.8, 1.3 and -5 the first two meet at 1.05."""
    values = [-5.0, 1.3, 0.8]
    models = [{"x": np.float32(value)} for value in values]
    asked = []

    def score(params):
        asked.append(float(params["x"]))
        return -abs(asked[-1] - 1.0)

    found, chosen = greedy_soup(models, score)
    assert chosen == (2, 1)
    np.testing.assert_allclose(found["x"], 1.05, rtol=1e-6)
    assert len(asked) == 3 + 2


def test_a_greedy_soup_of_one_model_is_it():
    found, chosen = greedy_soup([model(0)], lambda params: 1.0)
    assert chosen == (0,)
    assert found["text/norm/bias"].tobytes() == model(0)["text/norm/bias"].tobytes()


def test_other_parameters_are_refused():
    with pytest.raises(UserError, match=r"only model 1 has image/extra"):
        soup([model(0), model(1, **{"image/extra": np.zeros(2)})])
    b = model(1)
    b["image/projct/kernel"] = b.pop("image/project/kernel")
    with pytest.raises(UserError, match="Did you mean"):
        interpolate(model(0), b, 0.5)


def test_other_shapes_are_refused():
    wrong = model(2, **{"text/norm/bias": np.zeros(5, np.float32)})
    with pytest.raises(UserError, match=r"text/norm/bias is \[4\] in model 0 and \[5\] in model 2"):
        soup([model(0), model(1), wrong])


def test_no_model_makes_no_soup():
    with pytest.raises(UserError, match="at least one model"):
        soup([])
    with pytest.raises(UserError, match="at least one model"):
        greedy_soup([], lambda params: 0.0)


def test_configs_must_be_the_same_but_for_how_they_are_computed():
    config = DualEncoderConfig()
    check_same([config, dataclasses.replace(config, compute=ComputeConfig(dtype="bfloat16"))])
    check_same([])
    image = dataclasses.replace(config.image, activation="quick_gelu")
    with pytest.raises(UserError, match=r"model 1 is not model 0: image is .*quick_gelu"):
        check_same([config, dataclasses.replace(config, image=image)])
