import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.layers.batch_norm import BatchNorm

CHANNELS, EPS, MOMENTUM = 5, 1e-3, 0.1


def layer(frozen=False, dtype="float32"):
    """With gains, biases and statistics drawn."""
    norm = BatchNorm(CHANNELS, eps=EPS, momentum=MOMENTUM, frozen=frozen, dtype=jnp.dtype(dtype))
    rng = np.random.default_rng(0)
    norm.scale[...] = jnp.asarray(rng.normal(size=CHANNELS) + 1, jnp.float32)
    norm.bias[...] = jnp.asarray(rng.normal(size=CHANNELS), jnp.float32)
    norm.mean[...] = jnp.asarray(rng.normal(size=CHANNELS), jnp.float32)
    norm.variance[...] = jnp.asarray(np.exp(rng.normal(size=CHANNELS)), jnp.float32)
    return norm


def batches(shape, count=4):
    rng = np.random.default_rng(1)
    return [(3 + 2 * rng.normal(size=(*shape, CHANNELS))).astype(np.float32) for _ in range(count)]


def normalised(norm, x, mean, variance):
    scale, bias = np.float64(norm.scale[...]), np.float64(norm.bias[...])
    return (x - mean) / np.sqrt(variance + EPS) * scale + bias


@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 3, 5)], ids=["rows", "tokens", "maps"])
def test_several_steps_in_float64(shape):
    """Algorithm 1 of the paper; running statistics as PyTorch's, the variance times n / (n - 1)."""
    norm = layer()
    mean, variance = np.float64(norm.mean[...]), np.float64(norm.variance[...])
    count = np.prod(shape)
    for x in batches(shape):
        out = norm(jnp.asarray(x), train=True)
        rows = np.float64(x).reshape(-1, CHANNELS)
        expected = normalised(norm, np.float64(x), rows.mean(0), rows.var(0))
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
        mean = (1 - MOMENTUM) * mean + MOMENTUM * rows.mean(0)
        variance = (1 - MOMENTUM) * variance + MOMENTUM * rows.var(0) * count / (count - 1)
        np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
        np.testing.assert_allclose(norm.variance[...], variance, rtol=1e-5)
    x = batches(shape, 1)[0]
    before = np.array(norm.mean[...])
    out = norm(jnp.asarray(x), train=False)
    np.testing.assert_allclose(out, normalised(norm, np.float64(x), mean, variance), atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], before)


def test_one_value_has_no_unbiased_variance():
    """PyTorch refuses it; here its variance is zero and nothing becomes infinite."""
    norm = layer()
    before = np.array(norm.variance[...])
    out = norm(jnp.ones((1, CHANNELS)), train=True)
    np.testing.assert_allclose(out[0], norm.bias[...], rtol=1e-6)
    np.testing.assert_allclose(norm.variance[...], (1 - MOMENTUM) * before, rtol=1e-6)


def test_frozen_it_is_the_same_in_training_and_keeps_its_statistics():
    norm = layer(frozen=True)
    before = np.array(norm.mean[...]), np.array(norm.variance[...])
    x = jnp.asarray(batches((4, 3), 1)[0])
    np.testing.assert_array_equal(norm(x, train=True), norm(x, train=False))
    np.testing.assert_array_equal(norm.mean[...], before[0])
    np.testing.assert_array_equal(norm.variance[...], before[1])


def test_the_gradient_passes_through_the_statistics_of_the_batch():
    """Against finite differences in float64, x moved one value at a time."""
    norm, x = layer(), batches((4, 2), 1)[0]
    weights = np.random.default_rng(2).normal(size=x.shape)

    def value(x):
        return (layer()(x, train=True) * weights).sum()

    def exact(x):
        rows = x.reshape(-1, CHANNELS)
        return (normalised(norm, x, rows.mean(0), rows.var(0)) * weights).sum()

    gradient = jax.grad(value)(jnp.asarray(x))
    for place in [(0, 0, 0), (3, 1, 4), (2, 0, 2)]:
        step = np.zeros(x.shape)
        step[place] = 1e-4
        slope = (exact(np.float64(x) + step) - exact(np.float64(x) - step)) / 2e-4
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-3, atol=1e-4)


def test_of_bfloat16_the_statistics_are_float32():
    """The mean of values around 200 would be off by up to 0.5 in bfloat16."""
    norm = layer(dtype="bfloat16")
    x = jnp.asarray(200 + batches((64, 4), 1)[0], jnp.bfloat16)
    old = np.float64(norm.mean[...])
    out = norm(x, train=True)
    assert out.dtype == jnp.bfloat16
    assert norm.mean[...].dtype == jnp.float32
    exact = np.float64(x.astype(jnp.float32)).reshape(-1, CHANNELS).mean(0)
    np.testing.assert_allclose(norm.mean[...], 0.9 * old + 0.1 * exact, rtol=1e-5)


def test_no_array_is_weakly_typed():
    """One that is would compile the training step twice."""
    norm = BatchNorm(2, eps=EPS, momentum=0.1, frozen=False, dtype=jnp.dtype("float32"), start=0.0)
    for leaf in jax.tree.leaves(nnx.state(norm)):
        assert not leaf.weak_type
    np.testing.assert_array_equal(norm.scale[...], 0)
