import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.layers.cross_attention import CrossAttention, CrossBlock, QueryPool

F32 = jnp.dtype("float32")


def attention(width, context_width, heads=2, *, bias=True):
    return CrossAttention(
        width,
        context_width,
        heads,
        bias=bias,
        in_std=0.5,
        out_std=0.5,
        dtype=F32,
        rngs=nnx.Rngs(0),
    )


def moved(layer, seed=3):
    """The layer with random numbers in every leaf, and these by name."""
    rng = np.random.default_rng(seed)
    flat = nnx.to_flat_state(nnx.state(layer, nnx.Param))
    leaves = {
        path: 0.5 * rng.normal(size=leaf.get_value().shape).astype(np.float32)
        for path, leaf in flat
    }
    state = nnx.from_flat_state([(path, leaf.replace(leaves[path])) for path, leaf in flat])
    nnx.update(layer, state)
    return {"/".join(map(str, path)): value for path, value in leaves.items()}


def definition(x, context, p, reference, seen=None):
    """One example in float64: every head and query in a loop; `seen` lists keys."""
    if "qkv/kernel" in p:
        kernels = [p["qkv/kernel"][:, i] for i in range(3)]
        biases = p.get("qkv/bias", np.zeros(3))
    else:
        kernels = [p["query/kernel"], *(p["key_value/kernel"][:, i] for i in range(2))]
        biases = p.get("bias", np.zeros(3))
    seen = range(len(context)) if seen is None else seen
    query, key, value = (
        np.einsum("td,dhe->the", source, kernel) + bias
        for source, kernel, bias in zip((x, context, context), kernels, biases, strict=True)
    )
    mixed = reference.attend(query, key[list(seen)], value[list(seen)])
    return np.einsum("the,hed->td", mixed, p["out/kernel"]) + p.get("out/bias", 0.0)


@pytest.fixture
def inputs():
    """Three queries of width 8, five tokens of width 6 and five of width 8; two examples."""
    rng = np.random.default_rng(0)
    shapes = {8: (2, 3, 8), 6: (2, 5, 6), "context": (2, 5, 8)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("context_width", [6, 8])
def test_matches_the_float64_definition(context_width, bias, inputs, reference):
    layer = attention(8, context_width, bias=bias)
    params = {name: reference.f64(value) for name, value in moved(layer).items()}
    context = inputs["context"] if context_width == 8 else inputs[6]
    mask = np.array([[True, False, True, True, False], [False, True, True, True, True]])
    whole = layer(jnp.asarray(inputs[8]), jnp.asarray(context))
    part = layer(jnp.asarray(inputs[8]), jnp.asarray(context), jnp.asarray(mask[:, None, None]))
    for example in range(2):
        x, y = reference.f64(inputs[8][example]), reference.f64(context[example])
        expected = definition(x, y, params, reference)
        np.testing.assert_allclose(whole[example], expected, rtol=2e-5, atol=2e-5)
        expected = definition(x, y, params, reference, seen=np.flatnonzero(mask[example]))
        np.testing.assert_allclose(part[example], expected, rtol=2e-5, atol=2e-5)


def test_only_the_wanted_leaves_exist():
    def names(layer):
        return {"/".join(map(str, p)) for p, _ in nnx.to_flat_state(nnx.state(layer, nnx.Param))}

    assert names(attention(8, 8)) == {"qkv/kernel", "qkv/bias", "out/kernel", "out/bias"}
    assert names(attention(8, 8, bias=False)) == {"qkv/kernel", "out/kernel"}
    two = {"query/kernel", "key_value/kernel", "out/kernel"}
    assert names(attention(8, 6, bias=False)) == two
    assert names(attention(8, 6)) == two | {"bias", "out/bias"}


def test_queries_of_one_example_serve_the_whole_batch(inputs):
    layer = attention(8, 6)
    moved(layer)
    one, context = jnp.asarray(inputs[8][:1]), jnp.asarray(inputs[6])
    np.testing.assert_allclose(
        layer(one, context), layer(jnp.repeat(one, 2, axis=0), context), atol=1e-6
    )


def test_causal_is_the_mask_of_all_pairs_below_the_diagonal(inputs):
    layer = attention(8, 8)
    moved(layer)
    x = jnp.asarray(inputs["context"])
    below = jnp.tril(jnp.ones((5, 5), bool))[None, None]
    np.testing.assert_allclose(
        layer(x, x, causal=True), layer(x, x, jnp.repeat(below, 2, axis=0)), atol=1e-6
    )
    assert not np.allclose(layer(x, x, causal=True), layer(x, x))


def test_the_block_is_attention_to_normed_tokens_and_mlp(inputs, reference):
    block = CrossBlock(
        8, 2, 12, depth=1, activation="gelu", norm_eps=1e-5, dtype=F32, rngs=nnx.Rngs(0)
    )
    params = moved(block)
    p = {name: reference.f64(value) for name, value in params.items()}
    out = block(jnp.asarray(inputs[8]), jnp.asarray(inputs["context"]))
    for example in range(2):
        x, y = reference.f64(inputs[8][example]), reference.f64(inputs["context"][example])
        normed = [
            reference.layer_norm(z, p[f"{name}/scale"], p[f"{name}/bias"], 1e-5)
            for z, name in ((x, "ln_1"), (y, "ln_context"))
        ]
        x = x + definition(*normed, reference.within(p, "attn/"), reference)
        z = reference.layer_norm(x, p["ln_2/scale"], p["ln_2/bias"], 1e-5)
        z = reference.activations["gelu"](z @ p["mlp/fc1/kernel"] + p["mlp/fc1/bias"])
        expected = x + z @ p["mlp/fc2/kernel"] + p["mlp/fc2/bias"]
        np.testing.assert_allclose(out[example], expected, rtol=2e-5, atol=2e-5)


def test_the_pooler_reads_with_normed_queries_what_its_mask_lets_it_see(inputs, reference):
    pool = QueryPool(8, 6, 2, queries=3, norm_eps=1e-5, dtype=F32, rngs=nnx.Rngs(0))
    p = {name: reference.f64(value) for name, value in moved(pool).items()}
    mask = jnp.asarray([[True] * 3 + [False] * 2, [True] * 5])
    out = jax.jit(pool)(jnp.asarray(inputs[6]), mask)
    assert out.shape == (2, 3, 8)
    queries = reference.layer_norm(p["queries"], p["ln_queries/scale"], p["ln_queries/bias"], 1e-5)
    for example, seen in enumerate((3, 5)):
        context = reference.layer_norm(
            reference.f64(inputs[6][example]), p["ln_context/scale"], p["ln_context/bias"], 1e-5
        )
        attn = reference.within(p, "attn/")
        expected = definition(queries, context, attn, reference, seen=range(seen))
        np.testing.assert_allclose(out[example], expected, rtol=2e-5, atol=2e-5)
