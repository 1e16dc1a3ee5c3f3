"""CoCa: the decoder and the class token against float64, and what each of them sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import CocaDecoderConfig
from clipjax.models import Patches, param_shapes, with_params

END = 19


@pytest.fixture(scope="module")
def config(tiny):
    """Pooler of width 8 over patches of width 16."""
    return tiny.model(
        tiny.vit(pool="coca", pooler_queries=5, pooler_heads=2),
        tiny.text(pool="class", width=8),
        decoder=CocaDecoderConfig(width=8, depth=2, num_heads=2, mlp_dim=24),
    )


def cross(x, image, p, reference):
    """One example of the block that reads the image, in float64."""
    q = reference.layer_norm(x, p["ln_1/scale"], p["ln_1/bias"], 1e-5)
    kv = reference.layer_norm(image, p["ln_context/scale"], p["ln_context/bias"], 1e-5)
    query, key, value = (
        np.einsum("td,dhe->the", source, p["attn/qkv/kernel"][:, i]) + p["attn/qkv/bias"][i]
        for i, source in enumerate((q, kv, kv))
    )
    mixed = reference.attend(query, key, value)
    x = x + np.einsum("the,hed->td", mixed, p["attn/out/kernel"]) + p["attn/out/bias"]
    y = reference.layer_norm(x, p["ln_2/scale"], p["ln_2/bias"], 1e-5)
    y = reference.activations["gelu"](y @ p["mlp/fc1/kernel"] + p["mlp/fc1/bias"])
    return x + y @ p["mlp/fc2/kernel"] + p["mlp/fc2/bias"]


def test_the_decoder_matches_the_float64_definition(config, tiny, reference):
    params = tiny.params(config)
    rng = np.random.default_rng(0)
    text, image = rng.normal(size=(2, 6, 8)), rng.normal(size=(2, 4, 8))
    out = jax.jit(lambda p, t, i: with_params(config, p).decoder(t, i))(
        params, np.float32(text), np.float32(image)
    )
    p = reference.within(params, "decoder/")
    gelu = reference.activations["gelu"]
    for example in range(2):
        x = text[example]
        for layer in range(2):
            block = reference.within(p, f"blocks/stack/{layer}/text_block/")
            x = reference.block(x, block, causal=True, activation=gelu, eps=1e-5)
            block = reference.within(p, f"blocks/stack/{layer}/image_block/")
            x = cross(x, image[example], block, reference)
        x = reference.layer_norm(x, p["norm/scale"], p["norm/bias"], 1e-5)
        np.testing.assert_allclose(out[example], x @ p["project/kernel"], rtol=1e-4, atol=1e-4)


def class_definition(tokens, params, config, reference):
    """One text in float64: embeddings, class token behind, and a mask for all of them."""
    p = reference.within(params, "text/")
    x = np.concatenate([p["embedding"][tokens], p["class_token"][None]])
    x = x + p["positions"][: len(x)]
    real = [token != config.pad_id for token in tokens]
    keys = [True, *real] if config.class_mask == "shifted" else [*real, True]
    for layer in range(config.depth):
        block = reference.within(p, f"blocks/stack/{layer}/")
        y = reference.layer_norm(x, block["ln_1/scale"], block["ln_1/bias"], 1e-5)
        qkv = np.einsum("td,dshe->tshe", y, block["attn/qkv/kernel"]) + block["attn/qkv/bias"]
        mixed = np.stack(
            [
                reference.attend(qkv[[i], 0], qkv[seen, 1], qkv[seen, 2])[0]
                for i in range(len(x))
                for seen in [[j for j in range(i + 1) if keys[j]]]
            ]
        )
        out = np.einsum("the,hed->td", mixed, block["attn/out/kernel"])
        x = x + out + block["attn/out/bias"]
        y = reference.layer_norm(x, block["ln_2/scale"], block["ln_2/bias"], 1e-5)
        y = reference.activations["gelu"](y @ block["mlp/fc1/kernel"] + block["mlp/fc1/bias"])
        x = x + y @ block["mlp/fc2/kernel"] + block["mlp/fc2/bias"]
    pooled = reference.layer_norm(x[-1], p["norm/scale"], p["norm/bias"], 1e-5)
    return pooled @ p["project/kernel"], x[:-1]


@pytest.mark.parametrize("mask", ["exact", "shifted"])
def test_the_class_token_matches_the_float64_definition(mask, tiny, reference):
    config = tiny.model(text=tiny.text(pool="class", class_mask=mask))
    params = tiny.params(config)
    tokens = tiny.tokens([18, 3, 7, END, 0, 0], [18, 4, 5, 6, 7, END], [18, END, 0, 0, 0, 0])
    pooled, seen = jax.jit(lambda p, t: with_params(config, p).text.pooled_and_tokens(t))(
        params, tokens
    )
    alone = jax.jit(lambda p, t: with_params(config, p).text(t))(params, tokens)
    np.testing.assert_allclose(alone, pooled, atol=1e-6)
    for example in range(3):
        wanted, rows = class_definition(tokens[example], params, config.text, reference)
        np.testing.assert_allclose(pooled[example], wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(seen[example], rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mask", "sees"), [("exact", False), ("shifted", True)])
def test_only_the_shifted_mask_lets_the_first_padding_be_seen(mask, sees, tiny):
    """By the embedding of padding: with one padding it changes the text, or it does not."""
    config = tiny.model(text=tiny.text(pool="class", class_mask=mask))
    params = tiny.params(config)
    encode = jax.jit(lambda p, t: with_params(config, p).encode_text(t))
    tokens = tiny.tokens([18, 3, 4, 5, END, 0])
    other = params | {"text/embedding": params["text/embedding"].at[0].multiply(-2.0)}
    assert (np.abs(encode(other, tokens) - encode(params, tokens)).max() > 1e-4) == sees


def test_an_empty_text_is_finite(tiny):
    for mask in ("exact", "shifted"):
        config = tiny.model(text=tiny.text(pool="class", class_mask=mask))
        grad = jax.jit(jax.grad(lambda p, t, c=config: with_params(c, p).text(t).sum()))(
            tiny.params(config), tiny.tokens([0] * 6)
        )
        assert all(np.isfinite(g).all() for g in grad.values())


def test_the_first_query_is_the_image_and_the_others_are_read(config, tiny, reference):
    params = tiny.params(config)
    pixels = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)

    def parts(p, x):
        tower = with_params(config, p).image
        return tower(x), *tower.pooled_and_tokens(x)[:2], tower.pool(tower.tokens(x)[0])

    alone, pooled, seen, read = jax.jit(parts)(params, pixels)
    assert seen.shape == (2, 4, 8)
    np.testing.assert_allclose(alone, pooled, atol=1e-5)
    p = reference.within(params, "image/")
    normed = reference.layer_norm(reference.f64(read), p["norm/scale"], p["norm/bias"], 1e-5)
    np.testing.assert_allclose(pooled, normed[:, 0] @ p["project/kernel"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(seen, normed[:, 1:], rtol=1e-4, atol=1e-4)


def test_parameters_of_the_pooler_have_the_width_of_the_shared_space(config):
    shapes = param_shapes(config)
    found = {n.removeprefix("image/"): s for n, s in shapes.items() if n.startswith("image/")}
    assert found["pool/queries"] == (5, 8)
    assert found["pool/attn/key_value/kernel"] == (16, 2, 2, 4)
    assert found["norm/scale"] == (8,)
    assert found["project/kernel"] == (8, 8)
    assert found["positions"] == (10, 16)
    assert shapes["text/positions"] == (7, 8)


@pytest.mark.parametrize("pool", ["coca", "cls", "mean"])
def test_padding_of_patches_is_not_read(pool, tiny):
    """An image as patches, with and without padding full of other numbers."""
    width = 8 if pool == "coca" else 16
    config = tiny.model(
        tiny.vit(pool=pool, pooler_queries=5, pooler_heads=2),
        tiny.text(pool="class", width=width),
        decoder=CocaDecoderConfig(width=width, depth=1, num_heads=2, mlp_dim=24),
    )
    params, rng = tiny.params(config), np.random.default_rng(0)
    values = rng.integers(0, 256, (1, 9, 48)).astype(np.uint8)
    places = np.stack(np.divmod(np.arange(9), 3), axis=1)[None].astype(np.int32)
    grid = np.array([[3, 3]], np.int32)

    def patches(padding):
        more = ((0, 0), (0, padding), (0, 0))
        return Patches(
            values=np.pad(values, more, constant_values=77),
            positions=np.pad(places, more, constant_values=1),
            mask=np.arange(9 + padding)[None] < 9,
            grid=grid,
        )

    def forward(p, x):
        return with_params(config, p).forward_captioning(x, jnp.asarray([[18, 3, END, 0, 0, 0]]))

    exact, padded = (jax.jit(forward)(params, patches(n)) for n in (0, 4))
    for one, other in zip(exact, padded, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)
