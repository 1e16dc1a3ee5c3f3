"""CapPa's decoder against float64, written from section 3 of the paper."""

import jax
import numpy as np
import pytest

from clipjax.config import CappaDecoderConfig
from clipjax.models import init_params, param_shapes, with_params
from clipjax.models.cappa import parallel_captions

LENGTH, IDS = 6, 20
TOKENS = np.array([[3, 7, 19, 0, 0, 0], [5, 4, 3, 2, 1, 19]], np.int32)


def cappa(tiny, **fields):
    decoder = dict(vocab_size=IDS, context_length=LENGTH, width=8, depth=2, num_heads=2)
    return tiny.model(
        tiny.vit(pool="mean", norm_before_pool=True, pre_norm=False, patch_bias=True),
        decoder=CappaDecoderConfig(**(decoder | {"mlp_dim": 12} | fields)),
    )


def projections(source, context, p):
    """Queries, keys and values in float64, from one kernel or from two."""
    if "qkv/kernel" in p:
        kernels = np.moveaxis(p["qkv/kernel"], 1, 0)
    else:
        kernels = [p["query/kernel"], *np.moveaxis(p["key_value/kernel"], 1, 0)]
    sources = (source, context, context)
    return [np.einsum("td,dhe->the", s, k) for s, k in zip(sources, kernels, strict=True)]


def definition(tokens, image, parallel, params, config, reference):
    """One caption: in parallel all inputs are the token behind the vocabulary, and all are seen."""
    p, decoder = reference.within(params, "decoder/"), config.decoder

    def norm(x, p, name):
        return reference.layer_norm(x, p[f"{name}/scale"], p.get(f"{name}/bias", 0.0), 1e-6)

    inputs = [IDS] * len(tokens) if parallel else [decoder.start_id, *tokens[:-1]]
    x = p["embedding"][inputs] + p["positions"][: len(tokens)]
    for layer in range(decoder.depth):
        q = reference.within(p, f"blocks/stack/{layer}/")
        own, read = reference.within(q, "self_attn/"), reference.within(q, "image_attn/")
        y = norm(x, q, "ln_1")
        mixed = reference.attend(*projections(y, y, own), causal=not parallel)
        x = x + np.einsum("the,hed->td", mixed, own["out/kernel"])
        mixed = reference.attend(*projections(norm(x, q, "ln_2"), image, read))
        x = x + np.einsum("the,hed->td", mixed, read["out/kernel"])
        y = norm(x, q, "ln_3") @ q["mlp/fc1/kernel"] + q.get("mlp/fc1/bias", 0.0)
        y = reference.activations["gelu_tanh"](y)
        x = x + y @ q["mlp/fc2/kernel"] + q.get("mlp/fc2/bias", 0.0)
    return norm(x, p, "norm") @ p["project/kernel"] + p["project/bias"]


@pytest.mark.parametrize(
    "fields",
    [{}, {"bias": True, "start_id": 2}, {"width": 16}],
    ids=["published", "bias", "equal_widths"],
)
def test_matches_the_float64_definition(fields, tiny, reference):
    config = cappa(tiny, **fields)
    params = tiny.params(config)
    image = np.random.default_rng(0).normal(size=(2, 9, 16))
    call = jax.jit(lambda p, t, i, m, q: with_params(config, p).decoder(t, i, m, q))
    for parallel in (None, [False, True], [True, False]):
        chosen = None if parallel is None else np.array(parallel)
        out = call(params, TOKENS, np.float32(image), None, chosen)
        for example, hidden in enumerate(parallel or (False, False)):
            expected = definition(
                TOKENS[example], image[example], hidden, params, config, reference
            )
            np.testing.assert_allclose(out[example], expected, rtol=1e-4, atol=1e-4)


def test_the_decoder_reads_the_normed_tokens_of_the_image_tower(tiny, reference):
    config = cappa(tiny)
    params, images = tiny.params(config), tiny.images(2)

    def parts(p, images, tokens):
        model = with_params(config, p)
        return model.caption_logits(images, tokens), model.image.tokens(model._pixels(images))[0]

    logits, tokens = jax.jit(parts)(params, images, TOKENS)
    p = reference.within(params, "image/norm/")
    seen = reference.layer_norm(reference.f64(tokens), p["scale"], p["bias"], 1e-5)
    for example in range(2):
        expected = definition(TOKENS[example], seen[example], False, params, config, reference)
        np.testing.assert_allclose(logits[example], expected, rtol=1e-4, atol=1e-4)


def test_in_parallel_the_caption_is_not_seen_at_all(tiny):
    config = cappa(tiny)
    params = tiny.params(config)
    call = jax.jit(lambda p, i, t, q: with_params(config, p).caption_logits(i, t, parallel=q))
    parallel = np.array([True, False])
    one = call(params, tiny.images(2), TOKENS, parallel)
    other = call(params, tiny.images(2), TOKENS[::-1].copy(), parallel)
    np.testing.assert_array_equal(one[0], other[0])
    assert np.abs(one[1] - other[1]).max() > 1e-3
    assert np.abs(one[0, 0] - one[0, 1]).max() > 1e-3  # places differ by their positions


def test_the_share_of_parallel_captions_follows_the_key():
    key = jax.random.key(0)
    chosen = parallel_captions(key, 4000, 0.75)
    assert chosen.dtype == bool
    assert abs(float(chosen.mean()) - 0.75) < 5 * (0.75 * 0.25 / 4000) ** 0.5
    np.testing.assert_array_equal(chosen, parallel_captions(key, 4000, 0.75))
    assert (chosen != parallel_captions(jax.random.key(1), 4000, 0.75)).any()
    assert parallel_captions(key, 50, 1.0).all()
    assert not parallel_captions(key, 50, 0.0).any()


def test_only_published_leaves_exist(tiny):
    def names(config):
        found = param_shapes(config).items()
        return {n.removeprefix("decoder/"): s for n, s in found if n.startswith("decoder/")}

    published, biased = names(cappa(tiny)), names(cappa(tiny, bias=True, parallel_share=0.0))
    assert {name for name in published if name.endswith("bias")} == {"norm/bias", "project/bias"}
    assert {name for name in biased if "attn" in name and name.endswith("bias")} == set()
    assert "blocks/stack/0/mlp/fc1/bias" in biased
    assert published["embedding"] == (IDS + 1, 8)
    assert biased["embedding"] == (IDS, 8)
    assert published["project/kernel"] == (8, IDS)


def test_a_new_model_predicts_every_token_alike(tiny):
    """The map to the vocabulary starts at zero, all other kernels do not."""
    params = jax.jit(init_params, static_argnums=(0, 1))(cappa(tiny), 0)
    zero = {n for n, p in params.items() if n.startswith("decoder/") and not np.any(p)}
    assert zero == {"decoder/project/kernel", "decoder/project/bias", "decoder/norm/bias"}
