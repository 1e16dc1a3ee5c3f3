import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import ComputeConfig, LoraConfig, UsageError
from clipjax.models import param_shapes, with_params
from clipjax.models.lora import chosen, init_lora, matrices, merged

LORA = LoraConfig(rank=3, alpha=6.0, matrices=("*/attn/q", "*/attn/v", "text/*/mlp/fc1"))


@pytest.fixture(scope="module", params=[False, True], ids=["unrolled", "scanned"])
def config(request, tiny):
    return tiny.model(compute={"scan_layers": request.param})


@pytest.fixture(scope="module")
def params(config, tiny):
    """A model with factors that are not zero."""
    factors = init_lora(config, LORA, 0)
    rng = np.random.default_rng(1)
    factors = {n: jnp.asarray(rng.normal(size=f.shape), jnp.float32) for n, f in factors.items()}
    return {**tiny.params(config), **factors}


def test_fused_kernels_are_seen_by_their_parts(tiny):
    found = matrices(tiny.model(image=tiny.vit(pool="map")))
    block = {n.removeprefix("image/blocks/stack/1/") for n in found if "image/blocks/stack/1" in n}
    assert block == {"attn/q", "attn/k", "attn/v", "attn/out", "mlp/fc1", "mlp/fc2"}
    pool = {n.removeprefix("image/pool/") for n in found if "image/pool" in n}
    assert pool == {"query", "key", "value", "out", "mlp/fc1", "mlp/fc2"}
    assert "image/project" in found
    assert not any("patchify" in n or "embedding" in n or "positions" in n for n in found)
    out = found["image/blocks/stack/1/attn/out"]
    assert (out.inputs, out.outputs, out.part) == ((2, 8), (16,), None)
    value = found["image/blocks/stack/1/attn/v"]
    assert (value.inputs, value.outputs, value.part) == ((16,), (2, 8), 2)


def test_the_matrices_are_as_large_as_their_parameters(config):
    sizes = {}
    for matrix in matrices(config).values():
        size = np.prod(matrix.inputs) * np.prod(matrix.outputs) * (matrix.layers or 1)
        sizes[matrix.parameter] = sizes.get(matrix.parameter, 0) + size
    shapes = param_shapes(config)
    assert sizes == {name: np.prod(shapes[name]) for name in sizes}
    assert {n for n in shapes if n.endswith("kernel")} - sizes.keys() == {"image/patchify/kernel"}


def test_no_rank_no_factors(config):
    assert init_lora(config, LoraConfig(), 0) == {}
    assert chosen(config, LoraConfig()) == {}


def test_a_pattern_without_a_match_names_what_there_is(config):
    with pytest.raises(UsageError, match=r"'\*/attn/qq' matches no matrix.*\*/attn/q,"):
        init_lora(config, LoraConfig(rank=1, matrices=("*/attn/qq",)), 0)


def test_at_the_start_the_model_is_the_one_without_factors(config, tiny):
    bare = tiny.params(config)
    factors = init_lora(config, LORA, 0)
    assert all(np.abs(f).max() > 0 for n, f in factors.items() if n.endswith("/a"))
    for name, array in merged({**bare, **factors}, config, LORA).items():
        np.testing.assert_array_equal(array, bare[name], err_msg=name)


def test_first_factors_have_unit_gain_and_do_not_depend_on_each_other(config):
    few = init_lora(config, dataclasses.replace(LORA, matrices=("*/attn/q",)), 0)
    many = init_lora(config, LORA, 0)
    assert few.keys() < many.keys()
    for name, factor in few.items():
        np.testing.assert_array_equal(factor, many[name])
    wide = np.concatenate([np.ravel(f) for n, f in many.items() if n.endswith("/a")])
    np.testing.assert_allclose(wide.std(), 16**-0.5, rtol=0.15)  # some 500 draws
    assert len({np.asarray(f).tobytes() for n, f in many.items() if n.endswith("/a")}) == len(
        [n for n in many if n.endswith("/a")]
    )


def test_merged_by_hand(params, config):
    """W + alpha / rank a b, in float64, for every chosen matrix; everything else untouched."""
    out = merged(params, config, LORA)
    assert out.keys() == param_shapes(config).keys()
    touched = set()
    for name, matrix in chosen(config, LORA).items():
        a, b = (np.asarray(params[f"lora/{name}/{f}"], np.float64) for f in "ab")
        update = 6.0 / 3 * a @ b
        new, old = (np.asarray(p[matrix.parameter], np.float64) for p in (out, params))
        if matrix.part is not None:
            axis = -3
            new, old = new.take(matrix.part, axis=axis), old.take(matrix.part, axis=axis)
        np.testing.assert_allclose(
            new.reshape(update.shape), old.reshape(update.shape) + update, rtol=0, atol=2e-5
        )
        touched.add(matrix.parameter)
    for name in out.keys() - touched:
        assert out[name] is params[name]


def test_the_keys_between_queries_and_values_stay(params, config):
    out = merged(params, config, LORA)
    for name in out:
        if name.endswith("attn/qkv/kernel"):
            changed = np.abs(out[name] - params[name]).max(
                axis=tuple(i for i in range(out[name].ndim) if i != out[name].ndim - 3)
            )
            assert (changed > 0).tolist() == [True, False, True]


def test_the_model_computes_w_x_plus_b_a_x(params, config, tiny):
    """The projection by hand: the embedding moves by alpha / rank x a b."""
    lora = LoraConfig(rank=2, alpha=1.0, matrices=("text/project",))
    rng = np.random.default_rng(2)
    factors = {
        "lora/text/project/a": jnp.asarray(rng.normal(size=(16, 2)), jnp.float32),
        "lora/text/project/b": jnp.asarray(rng.normal(size=(2, 8)), jnp.float32),
    }
    bare = {name: p for name, p in params.items() if not name.startswith("lora/")}
    tokens = jnp.array([[1, 2, 3, 19, 0, 0], [4, 19, 0, 0, 0, 0]], jnp.int32)
    eye = {**bare, "text/project/kernel": jnp.eye(16)}
    wide = dataclasses.replace(config, embed_dim=16)
    features = with_params(wide, {**tiny.params(wide), **eye}).text(tokens)
    a, b = factors.values()
    expected = features @ bare["text/project/kernel"] + (features @ a) @ b / 2
    found = with_params(config, merged({**bare, **factors}, config, lora)).text(tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_some_layers_of_a_scanned_stack_cannot_be_chosen(tiny):
    lora = LoraConfig(rank=1, matrices=("image/blocks/stack/0/attn/q",))
    assert list(chosen(tiny.model(), lora)) == ["image/blocks/stack/0/attn/q"]
    config = dataclasses.replace(tiny.model(), compute=ComputeConfig(scan_layers=True))
    with pytest.raises(UsageError, match="chooses some layers of a stack only"):
        chosen(config, lora)


def test_gradients_reach_both_factors_of_every_matrix(params, config, tiny):
    images = jnp.asarray(tiny.images(4))
    tokens = jnp.asarray(np.arange(24, dtype=np.int32).reshape(4, 6) % 20)

    def loss(factors):
        model = with_params(config, merged({**params, **factors}, config, LORA))
        logits = model.encode_image(images) @ model.encode_text(tokens).T
        return jnp.square(logits - jnp.eye(4)).sum()

    factors = {name: p for name, p in params.items() if name.startswith("lora/")}
    for name, gradient in jax.jit(jax.grad(loss))(factors).items():
        assert np.abs(gradient).max() > 0, name
        if "/stack/attn" in name or "/stack/mlp" in name:
            assert (np.abs(gradient).max(axis=(1, 2)) > 0).all(), name


def test_a_negative_rank_is_refused():
    with pytest.raises(ValueError, match="rank=-1"):
        LoraConfig(rank=-1)
    with pytest.raises(ValueError, match="at least one pattern"):
        LoraConfig(rank=1, matrices=())
