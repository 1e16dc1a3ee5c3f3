"""big_vision's names, by a forward pass in NumPy that reads them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    BertConfig,
    DualEncoderConfig,
    ModernTextConfig,
    TextConfig,
    UserError,
    ViTConfig,
)
from clipjax.interchange import big_vision, transformers
from clipjax.interchange.transfer import read_params, written
from clipjax.models import Patches, param_shapes, with_params

WIDTH, HEADS, DEPTH, MLP, PATCH, SIDE, LENGTH, VOCAB = 16, 2, 3, 24, 4, 8, 6, 20
TOWER = {
    "width": WIDTH,
    "num_heads": HEADS,
    "depth": DEPTH,
    "mlp_dim": MLP,
    "activation": "gelu_tanh",
    "norm_eps": 1e-6,
}
CONFIG = DualEncoderConfig(
    image=ViTConfig(
        image_size=SIDE,
        patch_size=PATCH,
        pool="map",
        pre_norm=False,
        patch_bias=True,
        projection=False,
        **TOWER,
    ),
    text=TextConfig(
        vocab_size=VOCAB,
        context_length=LENGTH,
        causal=False,
        pool="last",
        projection_bias=True,
        **{**TOWER, "width": 24, "num_heads": 4},
    ),
    embed_dim=WIDTH,
    init_logit_scale=10.0,
    init_logit_bias=-10.0,
    pixel_mean=(0.5, 0.5, 0.5),
    pixel_std=(0.5, 0.5, 0.5),
    resize="squash",
    interpolation="bilinear",
)
TOK = dataclasses.replace(
    CONFIG, image=dataclasses.replace(CONFIG.image, pool="cls"), init_logit_bias=None
)
GAP = dataclasses.replace(
    CONFIG, image=dataclasses.replace(CONFIG.image, pool="mean", norm_before_pool=True)
)
HEAD = {"projection": True, "projection_bias": True}
# LiT's towers may both have a head, to a space of another size.
LIT = dataclasses.replace(TOK, image=dataclasses.replace(TOK.image, **HEAD), embed_dim=12)
# Its public text towers are BERTs, and positions are added before the class token comes.
BERT = BertConfig(
    vocab_size=VOCAB,
    context_length=16,
    max_positions=18,
    first_position=0,
    token_types=2,
    pad_id=0,
    width=128,
    depth=DEPTH,
    num_heads=2,
    mlp_dim=40,
    pool="first",
    projection="linear_bias",
    activation="gelu_tanh",
    norm_eps=1e-12,
)
LIT_BERT = dataclasses.replace(
    TOK, image=dataclasses.replace(TOK.image, class_position=False), text=BERT
)
CONFIGS = {"map": CONFIG, "tok": TOK, "gap": GAP, "tok with head": LIT, "tok and BERT": LIT_BERT}
OPTIONS = [
    {"prefix": "params/", "scanned": False, "naflex": False},
    {"prefix": "", "scanned": True, "naflex": False},
]


class File:
    """Tensors by name, float64 where the reference reads them; counts what is read."""

    source = "model.npz"

    def __init__(self, arrays):
        self.arrays, self.count = arrays, 0

    def shapes(self):
        return {name: array.shape for name, array in self.arrays.items()}

    def read(self, name):
        self.count += 1
        return self.arrays[name]


@pytest.fixture
def file(drawn_tensors):
    def make(config, **options):
        layout = big_vision.layout(config, **options)
        tensors = drawn_tensors(layout, param_shapes(config))
        return layout, File({name: tensors.read(name) for name in tensors.shapes()})

    return make


# ---- the reference: section 3 of the papers, in the names of the file


class Reference:
    def __init__(self, arrays, prefix):
        names = {name.removeprefix(prefix): np.float64(a) for name, a in arrays.items()}
        self.arrays = names

    def __getitem__(self, name):
        return self.arrays[name]

    def layer(self, encoder, i):
        """The tensors of one layer, from its own names or from the arrays of all layers."""
        alone, stacked = f"{encoder}/encoderblock_{i}/", f"{encoder}/encoderblock/"
        named = {n.removeprefix(alone): a for n, a in self.arrays.items() if n.startswith(alone)}
        every = {
            n.removeprefix(stacked): a for n, a in self.arrays.items() if n.startswith(stacked)
        }
        return named or {name: array[i] for name, array in every.items()}

    def part(self, prefix):
        return {n.removeprefix(prefix): a for n, a in self.arrays.items() if n.startswith(prefix)}


def norm(x, w, name, eps=1e-6):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return x * w[f"{name}/scale"] + w[f"{name}/bias"]


def attention(q, kv, w):
    name = "MultiHeadDotProductAttention_0"
    query, key, value = (
        np.einsum("bld,dhk->blhk", x, w[f"{name}/{n}/kernel"]) + w[f"{name}/{n}/bias"]
        for x, n in ((q, "query"), (kv, "key"), (kv, "value"))
    )
    scores = np.einsum("bqhk,blhk->bhql", query, key) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhql,blhk->bqhk", weights, value)
    return np.einsum("bqhk,hkd->bqd", mixed, w[f"{name}/out/kernel"]) + w[f"{name}/out/bias"]


def dense(x, w, name):
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def mlp(x, w):
    return dense(gelu_tanh(dense(x, w, "MlpBlock_0/Dense_0")), w, "MlpBlock_0/Dense_1")


def encoder(x, reference, name):
    for i in range(DEPTH):
        w = reference.layer(name, i)
        y = norm(x, w, "LayerNorm_0")
        x = x + attention(y, y, w)
        x = x + mlp(norm(x, w, "LayerNorm_1"), w)
    return norm(x, reference, f"{name}/encoder_norm")


def image_embeds(images, reference, pool):
    x = images / 127.5 - 1
    n, grid = len(x), SIDE // PATCH
    x = x.reshape(n, grid, PATCH, grid, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    kernel = reference["img/embedding/kernel"].reshape(-1, WIDTH)
    x = x.reshape(n, grid**2, -1) @ kernel + reference["img/embedding/bias"]
    places = reference["img/pos_embedding"]
    if pool.startswith("tok"):
        late = places.shape[1] == grid**2
        x = x + places if late else x
        x = np.concatenate([np.tile(reference["img/cls"], (n, 1, 1)), x], axis=1)
        x = x if late else x + places
    else:
        x = x + places
    x = encoder(x, reference, "img/Transformer")
    if pool == "map":
        w = reference.part("img/MAPHead_0/")
        x = attention(np.tile(w["probe"], (n, 1, 1)), x, w)
        x = (x + mlp(norm(x, w, "LayerNorm_0"), w))[:, 0]
    else:
        x = x.mean(1) if pool == "gap" else x[:, 0]
    if pool == "tok with head":
        x = x @ reference["img/head/kernel"] + reference["img/head/bias"]
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def bert_embeds(tokens, reference):
    """Post-norm blocks; padding is counted among the positions and not seen."""
    w = reference.part("txt/BertEncoder_0/")
    words, places, types = (
        w[f"embedder/embedders_{n}_ids/embedding"] for n in ("token", "position", "segment")
    )
    n, length = tokens.shape
    x = norm(words[tokens] + places[:length] + types[0], w, "layer_norm", 1e-12)
    unseen = np.where(tokens == 0, -np.inf, 0.0)[:, None, None]
    for i in range(DEPTH):
        w = reference.part(f"txt/BertEncoder_0/encoder_block/layer_sequence/layers_{i}/")
        query, key, value = (
            dense(x, w, f"attention_block/attention_layer/{part}").reshape(n, length, 2, 64)
            for part in ("query", "key", "value")
        )
        scores = np.einsum("bqhk,blhk->bhql", query, key) / 8 + unseen
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("bhql,blhk->bqhk", weights, value).reshape(n, length, 128)
        mixed = dense(mixed, w, "attention_block/dense_layer")
        x = norm(x + mixed, w, "attention_block/layer_norm", 1e-12)
        hidden = gelu_tanh(dense(x, w, "mlp_block/mlp/dense_layer"))
        x = norm(x + dense(hidden, w, "mlp_block/dense_layer"), w, "mlp_block/layer_norm", 1e-12)
    return x[:, 0]


def text_embeds(tokens, reference, pool):
    if pool.endswith("BERT"):
        x = bert_embeds(tokens, reference) @ reference["txt/head/kernel"]
        x = x + reference["txt/head/bias"]
        return x / np.linalg.norm(x, axis=-1, keepdims=True)
    x = reference["txt/Embed_0/embedding"][tokens] + reference["txt/pos_embedding"]
    x = encoder(x, reference, "txt/Encoder_0")[:, -1]
    x = x @ reference["txt/head/kernel"] + reference["txt/head/bias"]
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# ---- ours


def ours_of(config, layout, file):
    return {n: jnp.asarray(a) for n, a in read_params(layout, config, file)}


def inputs(length=LENGTH):
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    tokens = random.randint(1, VOCAB, (3, length)).astype(np.int32)
    tokens[0, -2:] = 0
    return images, tokens


@pytest.mark.parametrize("pool", CONFIGS)
@pytest.mark.parametrize("options", OPTIONS, ids=["unrolled", "scanned"])
def test_embeddings_are_those_of_the_reference(file, pool, options):
    config = CONFIGS[pool]
    layout, tensors = file(config, **options)
    images, tokens = inputs(config.text.context_length)
    model = with_params(config, ours_of(config, layout, tensors))
    reference = Reference(tensors.arrays, options["prefix"])
    expected = image_embeds(images, reference, pool), text_embeds(tokens, reference, pool)
    np.testing.assert_allclose(model.encode_image(jnp.asarray(images)), expected[0], atol=2e-6)
    np.testing.assert_allclose(model.encode_text(jnp.asarray(tokens)), expected[1], atol=2e-6)


@pytest.mark.parametrize("pool", CONFIGS)
@pytest.mark.parametrize("options", OPTIONS, ids=["unrolled", "scanned"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_round_trip_gives_every_bit_back(file, pool, options, scan_layers):
    config = dataclasses.replace(
        CONFIGS[pool],
        compute=dataclasses.replace(CONFIGS[pool].compute, scan_layers=scan_layers),
    )
    layout, tensors = file(CONFIGS[pool], **options)
    params = {n: np.asarray(a) for n, a in read_params(layout, config, tensors)}
    back = dict(written(layout, config, params))
    assert back.keys() == tensors.arrays.keys()
    for name, array in back.items():
        assert array.shape == tensors.arrays[name].shape, name
        np.testing.assert_array_equal(array, tensors.arrays[name], err_msg=name)


def test_scanned_tensors_are_read_once(file):
    """An npz is decompressed whenever a tensor is read."""
    layout, tensors = file(CONFIG, scanned=True)
    list(read_params(layout, CONFIG, tensors))
    assert tensors.count == len(tensors.arrays)


def test_naflex_is_the_same_model_in_other_shapes(file):
    square, naflex = file(CONFIG), file(CONFIG, naflex=True)
    table = naflex[1].arrays["params/img/pos_embedding"]
    assert table.shape == (2, 2, WIDTH)
    arrays = {n: a.reshape(naflex[1].arrays[n].shape) for n, a in square[1].arrays.items()}
    model = with_params(CONFIG, ours_of(CONFIG, naflex[0], File(arrays)))
    images, _ = inputs()
    cut = images.reshape(3, 2, PATCH, 2, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 4, -1)
    places = np.tile(np.argwhere(np.ones((2, 2))).astype(np.int32), (3, 1, 1))
    patches = Patches(
        values=jnp.asarray(cut),
        positions=jnp.asarray(places),
        mask=jnp.ones((3, 4), bool),
        grid=jnp.full((3, 2), 2),
    )
    expected = image_embeds(images, Reference(square[1].arrays, "params/"), "map")
    np.testing.assert_allclose(model.encode_image(patches), expected, atol=2e-6)


def test_the_tensors_of_transformers_are_the_same_model(file):
    """Read in big_vision's names, written in transformers', read again: nothing has changed."""
    layout, tensors = file(CONFIG)
    params = {n: np.asarray(a) for n, a in ours_of(CONFIG, layout, tensors).items()}
    theirs = transformers.layout(CONFIG, model_type="siglip")
    there = dict(written(theirs, CONFIG, params))
    head = tensors.arrays["params/img/MAPHead_0/MultiHeadDotProductAttention_0/key/kernel"]
    np.testing.assert_array_equal(
        there["vision_model.head.attention.in_proj_weight"][WIDTH : 2 * WIDTH],
        head.reshape(WIDTH, WIDTH).T,
    )
    for name, array in read_params(theirs, CONFIG, File(there)):
        np.testing.assert_array_equal(array, params[name], err_msg=name)


# ---- what a file says of its model


@pytest.mark.parametrize("pool", CONFIGS)
@pytest.mark.parametrize("options", OPTIONS, ids=["unrolled", "scanned"])
def test_the_config_is_read_off_the_shapes(file, pool, options):
    config = CONFIGS[pool]
    shapes = file(config, **options)[1].shapes()
    assert big_vision.options_of(shapes) == options
    assert big_vision.config_of(shapes) == config


def test_the_config_of_naflex(file):
    shapes = file(CONFIG, naflex=True)[1].shapes()
    assert big_vision.options_of(shapes)["naflex"]
    assert big_vision.config_of(shapes) == CONFIG


def test_other_files_are_refused(file):
    shapes = file(CONFIG)[1].shapes()
    with pytest.raises(UserError, match="two towers"):
        big_vision.config_of({n: s for n, s in shapes.items() if "/txt/" not in n})
    del shapes["params/img/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel"]
    with pytest.raises(UserError, match="encoderblock_0/MlpBlock_0/Dense_0/kernel is missing"):
        big_vision.config_of(shapes)


@pytest.mark.parametrize(
    ("tower", "change", "field"),
    [
        ("image", {"activation": "gelu"}, "image.activation is 'gelu'"),
        ("image", {"norm_eps": 1e-5}, "image.norm_eps is 1e-05"),
        ("image", {"registers": 2}, "image.registers is 2"),
        ("image", {"pool": "mean"}, "image.norm_before_pool is False"),
        ("text", {"causal": True}, "text.causal is True"),
        ("text", {"projection_bias": False}, "text.projection_bias is False"),
        ("image", {"projection": True}, "image.projection_bias is False"),
        ("image", {"qkv_bias": False}, "image.qkv_bias is False"),
    ],
)
def test_other_models_are_refused(tower, change, field):
    config = dataclasses.replace(
        CONFIG, **{tower: dataclasses.replace(getattr(CONFIG, tower), **change)}
    )
    with pytest.raises(UserError, match=f"big_vision cannot hold this model: config.{field}"):
        big_vision.layout(config)


def test_another_text_tower_is_refused():
    config = dataclasses.replace(CONFIG, text=ModernTextConfig())
    with pytest.raises(UserError, match=r"text\.kind is 'modern'"):
        big_vision.layout(config)


def test_gradients_reach_every_tensor(file):
    """Nothing that is read is left unused."""
    layout, tensors = file(CONFIG)
    params, (images, tokens) = ours_of(CONFIG, layout, tensors), inputs()

    def loss(params):
        model = with_params(CONFIG, params)
        logits = model.encode_image(jnp.asarray(images)) @ model.encode_text(jnp.asarray(tokens)).T
        return (jnp.exp(params["log_logit_scale"]) * logits + params["logit_bias"]).std()

    gradients = jax.jit(jax.grad(loss))(params)
    # The bias cancels in the deviation, that of keys in the softmax.
    silent = {name for name, g in gradients.items() if not np.abs(g).max() > 0}
    assert silent <= {"logit_bias"}
