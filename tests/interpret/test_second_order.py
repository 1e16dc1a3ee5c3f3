import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import orthogonal_mp

from clipjax.config import ConvNetConfig, DualEncoderConfig, TextConfig, UserError, ViTConfig
from clipjax.interpret.head_effects import direct_effects
from clipjax.interpret.moments import Moments
from clipjax.interpret.second_order import SecondOrder
from clipjax.interpret.sparse_texts import sparse_texts
from clipjax.interpret.vit_parts import in_plain_form, take_apart
from clipjax.models import param_shapes, with_params

TEXT = TextConfig(width=16, depth=1, num_heads=2, mlp_dim=16, context_length=8, vocab_size=64)
SMALL = {"image_size": 16, "patch_size": 8, "width": 16, "depth": 3, "num_heads": 2, "mlp_dim": 24}
TOWERS = {
    "class token": ViTConfig(**SMALL, registers=1, layer_scale=0.5),
    "mean": ViTConfig(**SMALL, pool="mean", norm_before_pool=True),
}
IMAGES = np.random.default_rng(1).integers(0, 256, (7, 16, 16, 3), np.uint8)


def model_of(image):
    config = DualEncoderConfig(image=image, text=TEXT, embed_dim=10)
    rng, params = np.random.default_rng(0), {}
    for name, shape in sorted(param_shapes(config).items()):
        numbers = rng.normal(size=shape) * (0.2 if name.endswith("kernel") else 0.3)
        numbers += name.endswith(("/scale", "/gain"))
        params[name] = jnp.asarray(numbers, jnp.float32)
    return config, params


@pytest.fixture(scope="module", params=list(TOWERS))
def whole(request):
    """A model, its parts and direct effects, and its second-order effects of two layers."""
    config, params = model_of(TOWERS[request.param])
    plain, numbers = in_plain_form(config, params)

    def run(numbers, images):
        model = with_params(plain, numbers)
        parts = take_apart(model, images)
        return dataclasses.asdict(parts), direct_effects(model.image, parts).heads

    parts, heads = jax.tree.map(np.asarray, jax.jit(run)(numbers, IMAGES))
    return config, {name: np.asarray(a, np.float64) for name, a in params.items()}, parts, heads


class Dense:
    """Everything in float64 from the definition: one [width] vector a token, layer and source."""

    def __init__(self, config, params, parts):
        self.config, self.params, self.parts = config.image, params, parts

    def block(self, layer, name):
        return self.params[f"image/blocks/stack/{layer}/{name}"]

    def gain(self, layer, name):
        scaled = self.config.layer_scale is not None
        return self.block(layer, f"{name}/gain") if scaled else 1.0

    def normed(self, layer, stream):
        """The first norm of a layer with its deviation held, without the bias."""
        centred = stream - stream.mean(axis=-1, keepdims=True)
        deviation = self.parts["layers"][layer]["deviation"].astype(np.float64)
        return centred / deviation[..., None] * self.block(layer, "ln_1/scale")

    def attended(self, layer, values):
        """What each head writes into each token of values [batch, tokens, heads, channels]."""
        attention = self.parts["layers"][layer]["attention"].astype(np.float64)
        mixed = np.einsum("bhts,bshc->bthc", attention, values)
        out = self.block(layer, "attn/out/kernel") * self.gain(layer, "ls_1")
        return np.einsum("bthc,hcw->bthw", mixed, out)

    def embedded(self, stream):
        """Through the last norm with its deviation held, the pooling and the projection."""
        centred = stream - stream.mean(axis=-1, keepdims=True)
        weights = self.parts["weights"].astype(np.float64)
        pooled = np.einsum("bt,bt...w->b...w", weights, centred)
        return pooled * self.params["image/norm/scale"] @ self.params["image/project/kernel"]

    def through(self, layer, stream):
        """Effect of something in the stream through each head of a layer, [batch, heads, embed]."""
        kernel = self.block(layer, "attn/qkv/kernel")[:, 2]
        values = np.einsum("btw,whc->bthc", self.normed(layer, stream), kernel)
        return self.embedded(self.attended(layer, values))

    def mlp(self, layer, hidden, *, bias):
        mapped = hidden @ self.block(layer, "mlp/fc2/kernel")
        mapped = mapped + (self.block(layer, "mlp/fc2/bias") if bias else 0)
        return mapped * self.gain(layer, "ls_2")


def effects_of(config, params, parts, layer):
    """Second-order effects by the module, [batch, neurons, later, embed], of embeddings as are."""
    found = SecondOrder(config, params, f"image/blocks/{layer}/mlp_act")
    assert found.later == [(later, h) for later in range(layer + 1, 3) for h in range(2)]
    lengths = np.linalg.norm(parts["embeds"], axis=1)[:, None, None]
    coefficients = found.coefficients(IMAGES).astype(np.float64) * lengths
    return coefficients[..., None] * found.directions(slice(None)).astype(np.float64)


def test_neurons_and_bias_are_the_whole_effect_of_an_mlp(whole):
    config, params, parts, _ = whole
    dense = Dense(config, params, parts)
    for layer in (0, 1):
        effects = effects_of(config, params, parts, layer).sum(axis=(1, 2))
        hidden = parts["layers"][layer]["hidden"].astype(np.float64)
        mapped = dense.mlp(layer, hidden, bias=True)
        bias = dense.mlp(layer, 0 * hidden, bias=True)
        later = range(layer + 1, 3)
        full = sum(dense.through(one, mapped).sum(axis=1) for one in later)
        added = sum(dense.through(one, bias).sum(axis=1) for one in later)
        # Sums of 24 neurons x 4 heads in float32: about sqrt(96) roundings of 6e-8.
        np.testing.assert_allclose(effects + added, full, atol=2e-6 * np.abs(full).max())


def test_each_neuron_is_the_dense_effect_of_that_neuron(whole):
    config, params, parts, _ = whole
    dense = Dense(config, params, parts)
    effects = effects_of(config, params, parts, 0)
    hidden = parts["layers"][0]["hidden"].astype(np.float64)
    for neuron in (0, 5, 23):
        alone = np.zeros(hidden.shape)
        alone[..., neuron] = hidden[..., neuron]
        mapped = dense.mlp(0, alone, bias=False)
        wanted = np.concatenate([dense.through(later, mapped) for later in (1, 2)], axis=1)
        found = effects[:, neuron]
        np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(effects).max())


def test_effects_of_all_sources_are_the_direct_effects_of_later_heads(whole):
    """What heads of the last layer write is what they read of all that was written before."""
    config, params, parts, heads = whole
    dense = Dense(config, params, parts)
    last, zero = 2, np.zeros(parts["first"].shape)
    total = dense.through(last, parts["first"].astype(np.float64))
    for layer in range(last):
        of_layer = parts["layers"][layer]
        out = dense.block(layer, "attn/out/kernel") * dense.gain(layer, "ls_1")
        mixed = np.einsum("bthc,hcw->btw", of_layer["mixed"].astype(np.float64), out)
        bias = dense.block(layer, "attn/out/bias") * dense.gain(layer, "ls_1")
        total += dense.through(last, mixed + bias)
        total += dense.through(last, dense.mlp(layer, 0 * of_layer["hidden"], bias=True))
        effects = effects_of(config, params, parts, layer).sum(axis=1)
        total += effects[:, -2:]  # through the heads of the last layer
    kernel, bias = (dense.block(last, f"attn/qkv/{name}") for name in ("kernel", "bias"))
    constant = np.einsum("w,whc->hc", dense.block(last, "ln_1/bias"), kernel[:, 2]) + bias[2]
    values = np.broadcast_to(constant, (*zero.shape[:2], *constant.shape))
    total += dense.embedded(dense.attended(last, values))
    np.testing.assert_allclose(total, heads[:, last], atol=1e-5 * np.abs(heads).max())


def test_the_principal_component_is_that_of_all_effects():
    config, params = model_of(TOWERS["class token"])
    found = SecondOrder(config, params, "image/blocks/0/mlp_act")
    coefficients = found.coefficients(IMAGES)
    moments = Moments()
    for rows in np.split(coefficients, [2, 3]):
        moments.update(rows)
    result = found.effects(moments)
    effects = np.einsum("bnp,npe->bne", coefficients, found.directions(slice(None)))
    effects = effects.astype(np.float64)
    for neuron in range(24):
        phi = effects[:, neuron]
        _, sizes, rows = np.linalg.svd(phi - phi.mean(axis=0))
        direction = rows[0] * np.sign(rows[0] @ phi.mean(axis=0))
        np.testing.assert_allclose(result.direction[neuron], direction, atol=1e-4)
        share = sizes[0] ** 2 / (sizes**2).sum()
        assert result.share[neuron] == pytest.approx(share, abs=1e-4)
        size = np.sqrt((phi**2).sum(axis=1).mean())
        assert result.size[neuron] == pytest.approx(size, rel=1e-4)
        np.testing.assert_allclose(result.mean[neuron], phi.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("image/blocks/2/mlp_act", "is the last layer"),
        ("image/blocks/3/mlp_act", "Did you mean 'image/blocks/.*There are image/blocks/0/mlp_act"),
        ("image/block/1/mlp_act", "Did you mean 'image/blocks/1/mlp_act'"),
    ],
)
def test_a_layer_that_has_no_such_effects_is_an_error(path, why):
    config, _ = model_of(TOWERS["class token"])
    with pytest.raises(UserError, match=why):
        SecondOrder(config, {}, path)


def test_what_has_no_such_effects_or_too_many_is_an_error():
    config = DualEncoderConfig(image=ConvNetConfig(), text=TEXT, embed_dim=16)
    with pytest.raises(UserError, match="need a Vision Transformer"):
        SecondOrder(config, {}, "image/blocks/0/mlp_act")
    config = DualEncoderConfig(image=ViTConfig(depth=24, num_heads=16, width=1024, mlp_dim=4096))
    with pytest.raises(UserError, match=r"4,096 neurons and 368 later heads.*Take a later layer"):
        SecondOrder(config, {}, "image/blocks/0/mlp_act")


def test_sums_of_texts_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(60, 20))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    directions = rng.normal(size=(15, 20))
    directions[3] = 0
    found = sparse_texts(directions, texts, count=6)
    for row in set(range(15)) - {3}:
        weights = orthogonal_mp(texts.T, directions[row], n_nonzero_coefs=6)
        assert set(np.flatnonzero(weights)) == set(found.texts[row].tolist())
        np.testing.assert_allclose(found.weights[row], weights[found.texts[row]], atol=1e-9)
        left = directions[row] - weights @ texts
        share = 1 - (left @ left) / (directions[row] @ directions[row])
        assert found.explained[row] == pytest.approx(share)
    assert found.texts[3].tolist() == [-1] * 6
    assert found.explained[3] == 0


def test_a_planted_sum_is_found_and_no_more():
    texts = np.linalg.qr(np.random.default_rng(2).normal(size=(16, 16)))[0]
    found = sparse_texts((3 * texts[4] - 2 * texts[9])[None], texts, count=4)
    assert found.texts.tolist() == [[4, 9, -1, -1]]
    np.testing.assert_allclose(found.weights, [[3, -2, 0, 0]], atol=1e-12)
    with pytest.raises(UserError, match="sums of 17 texts: there are 16"):
        sparse_texts(texts, texts, count=17)
