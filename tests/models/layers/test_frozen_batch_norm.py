import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.layers.batch_norm import BatchNorm, freeze_batch_norms


class Two(nnx.Module):
    def __init__(self):
        norm = {"eps": 1e-5, "momentum": 0.1, "frozen": False, "dtype": jnp.dtype("float32")}
        self.first, self.rest = BatchNorm(3, **norm), nnx.List([BatchNorm(3, **norm)])

    def __call__(self, x):
        return self.rest[0](self.first(x, train=True), train=True)


def moved(trained):
    model = Two()
    freeze_batch_norms(model, trained)
    model(jnp.asarray(np.random.default_rng(0).normal(2, 3, (16, 3)), jnp.float32))
    return [bool(np.any(norm.mean[...] != 0)) for norm in (model.first, model.rest[0])]


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ({}, [True, True]),
        ({"first/scale": True, "first/bias": True}, [True, True]),
        ({"first/scale": False}, [False, True]),
        ({"rest/0/bias": False}, [True, False]),
        ({"rest/0/scale": (False, True)}, [True, False]),
        ({"rest/0/scale": (True, True), "first/bias": False}, [False, True]),
    ],
)
def test_statistics_of_what_is_not_trained_stay(trained, expected):
    assert moved(trained) == expected


def test_a_frozen_norm_computes_by_its_statistics():
    """The batch is not even looked at: mean 0 and variance 1 are those it was born with."""
    model = Two()
    freeze_batch_norms(model, {"first/bias": False, "rest/0/bias": False})
    x = jnp.asarray([[5.0, -1.0, 0.0], [6.0, 1.0, 0.0]])
    np.testing.assert_allclose(model(x), x / (1 + 1e-5), rtol=1e-5)


def test_other_models_are_not_touched():
    freeze_batch_norms(Two(), {"first/scale": False})
    assert moved({}) == [True, True]
