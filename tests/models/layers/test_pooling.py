import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.layers.pooling import AttentionPool, first_end


@pytest.fixture(scope="module")
def pool():
    return AttentionPool(
        12,
        3,
        20,
        activation="gelu",
        norm_eps=1e-5,
        dtype=jnp.dtype("float32"),
        rngs=nnx.Rngs(0),
    )


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(2, 5, 12)).astype(np.float32)


def arrays(layer):
    state = nnx.to_flat_state(nnx.state(layer, nnx.Param))
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in state}


def test_map_pooling_matches_the_float64_definition(pool, x, reference):
    params = {name: reference.f64(value) for name, value in arrays(pool).items()}
    out = pool(jnp.asarray(x))
    for example in range(2):
        tokens = reference.f64(x[example])
        query = np.einsum("td,dhe->the", params["probe"], params["query/kernel"])
        key_value = np.einsum("td,dshe->tshe", tokens, params["key_value/kernel"])
        read = reference.attend(query, key_value[:, 0], key_value[:, 1])
        pooled = np.einsum("the,hed->td", read, params["out/kernel"])[0]
        y = reference.layer_norm(pooled, params["norm/scale"], params["norm/bias"], 1e-5)
        y = reference.activations["gelu"](y @ params["mlp/fc1/kernel"])
        expected = pooled + y @ params["mlp/fc2/kernel"]
        np.testing.assert_allclose(out[example], expected, rtol=2e-5, atol=2e-5)


def test_map_pooling_does_not_know_the_order_of_its_tokens(pool, x):
    order = [4, 2, 0, 1, 3]
    np.testing.assert_allclose(
        pool(jnp.asarray(x[:, order])), pool(jnp.asarray(x)), rtol=1e-5, atol=1e-6
    )


def test_map_pooling_reads_every_token(pool, x):
    grad = jax.grad(lambda x: pool(x).sum())(jnp.asarray(x))
    assert np.all(np.abs(grad).max(axis=-1) > 0)


def test_first_end_takes_the_first_of_several():
    x = jnp.arange(2 * 5 * 1, dtype=jnp.float32).reshape(2, 5, 1)
    tokens = jnp.asarray([[1, 9, 3, 9, 9], [1, 2, 3, 4, 9]], jnp.int32)
    np.testing.assert_array_equal(first_end(x, tokens, 9), [[1.0], [9.0]])


def test_first_end_takes_the_end_id_and_not_the_largest_id():
    """CLIP's argmax over ids is the same only while the end is the largest id."""
    x = jnp.arange(4, dtype=jnp.float32).reshape(1, 4, 1)
    tokens = jnp.asarray([[1, 5, 9, 5]], jnp.int32)
    np.testing.assert_array_equal(first_end(x, tokens, 5), [[1.0]])
