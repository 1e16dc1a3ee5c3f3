"""Towers of one modality, by timm and transformers, against ours: what they pool."""

import functools
import json

import numpy as np
import pytest

from clipjax.config import BertConfig, DualEncoderConfig, TextConfig, ViTConfig, to_json_dict

pytestmark = pytest.mark.parity

SIDE, PATCH, WIDTH, HEADS, DEPTH, VOCAB = 16, 8, 24, 2, 2, 40
TOWER = {"width": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_dim": 2 * WIDTH}
IMAGENET = {
    "image_size": SIDE,
    "patch_size": PATCH,
    "pre_norm": False,
    "patch_bias": True,
    "projection": False,
    "norm_eps": 1e-6,
    **TOWER,
}

# name: (fields of our tower besides IMAGENET, arguments of timm's)
TIMM = {
    "timm_cls": ({}, {}),
    "timm_mean": ({"pool": "mean"}, {"global_pool": "avg", "class_token": False}),
    "timm_registers": (
        {"registers": 3, "layer_scale": 0.1},
        {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.1},
    ),
    "timm_map": ({"pool": "map"}, {"global_pool": "map", "class_token": False}),
}


def model_config(image=None, text=None):
    return DualEncoderConfig(
        image=image or ViTConfig(**IMAGENET),
        text=text or TextConfig(vocab_size=VOCAB, context_length=8, **TOWER),
        embed_dim=WIDTH,
    )


def vit(timm, **arguments):
    return timm.models.VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=2,
        num_classes=5,
        **arguments,
    )


def case(part, config, shapes, inputs, pooled):
    return {
        "part": np.array(part),
        "config": np.array(json.dumps(to_json_dict(config))),
        "shapes": np.array(json.dumps({name: list(shape) for name, shape in shapes.items()})),
        "inputs": inputs,
        "pooled": pooled.detach().numpy(),
    }


def pooled_by(model, towers, config, images):
    x = towers.normalised(towers.torch.from_numpy(np.float64(images)), config)
    return model.forward_head(model.forward_features(x), pre_logits=True)


def shapes_of(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="session")
def timm(open_clip):
    """The package timm, after torchvision."""
    import timm

    return timm


@pytest.fixture(scope="module")
def images(towers):
    return towers.pixels(3, SIDE)[0]


def flat(cases):
    return {f"{name}/{key}": value for name, found in cases.items() for key, value in found.items()}


def test_vision_transformers_of_timm_and_their_npz(
    towers, timm, images, reference, tmp_path, drawn_by_name
):
    cases = {}
    for name, (fields, arguments) in TIMM.items():
        config = model_config(ViTConfig(**{**IMAGENET, **fields}))
        model = towers.fill(vit(timm, **arguments))
        pooled = pooled_by(model, towers, config, images)
        cases[name] = case("image", config, shapes_of(model), images, pooled)
    for name, fields, arguments, names in (
        ("augreg", {}, {}, augreg_shapes()),
        (
            "big_vision",
            {"pool": "mean", "norm_before_pool": True},
            {"global_pool": "avg", "class_token": False, "fc_norm": False},
            big_vision_shapes(),
        ),
    ):
        config = model_config(ViTConfig(**{**IMAGENET, **fields, "activation": "gelu_tanh"}))
        tanh = functools.partial(towers.torch.nn.GELU, approximate="tanh")
        model = vit(timm, act_layer=tanh, **arguments)
        path = tmp_path / f"{name}.npz"
        np.savez(path, **{n: drawn_by_name(n, shape) for n, shape in names.items()})
        model.load_pretrained(str(path))
        pooled = pooled_by(model.double().eval(), towers, config, images)
        cases[name] = case("image", config, names, images, pooled)
    reference("single_image_towers", flat(cases))


def block_shapes(prefix, attention, second_norm, mlp):
    heads = (HEADS, WIDTH // HEADS)
    shapes = {}
    for layer in range(DEPTH):
        block = f"{prefix}Transformer/encoderblock_{layer}"
        for norm in ("LayerNorm_0", second_norm):
            shapes |= {f"{block}/{norm}/{leaf}": (WIDTH,) for leaf in ("scale", "bias")}
        for part in ("query", "key", "value"):
            shapes[f"{block}/{attention}/{part}/kernel"] = (WIDTH, *heads)
            shapes[f"{block}/{attention}/{part}/bias"] = heads
        shapes[f"{block}/{attention}/out/kernel"] = (*heads, WIDTH)
        shapes[f"{block}/{attention}/out/bias"] = (WIDTH,)
        for dense, (inputs, outputs) in enumerate([(WIDTH, 2 * WIDTH), (2 * WIDTH, WIDTH)]):
            shapes[f"{block}/{mlp}/Dense_{dense}/kernel"] = (inputs, outputs)
            shapes[f"{block}/{mlp}/Dense_{dense}/bias"] = (outputs,)
    return shapes


def shared_shapes(prefix):
    return {
        f"{prefix}embedding/kernel": (PATCH, PATCH, 3, WIDTH),
        f"{prefix}embedding/bias": (WIDTH,),
        f"{prefix}Transformer/encoder_norm/scale": (WIDTH,),
        f"{prefix}Transformer/encoder_norm/bias": (WIDTH,),
        f"{prefix}head/kernel": (WIDTH, 5),
        f"{prefix}head/bias": (5,),
    }


def augreg_shapes():
    """The names of vision_transformer's published files, as timm reads them."""
    return {
        "cls": (1, 1, WIDTH),
        "Transformer/posembed_input/pos_embedding": (1, 5, WIDTH),
        **shared_shapes(""),
        **block_shapes("", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
    }


def big_vision_shapes():
    return {
        "params/pos_embedding": (1, 4, WIDTH),
        **shared_shapes("params/"),
        **block_shapes("params/", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
    }


def test_bert_of_transformers(towers, transformers, reference):
    torch, cases = towers.torch, {}
    tokens = np.random.RandomState(5).randint(4, VOCAB, (3, 8)).astype(np.int32)
    tokens[0, 5:], tokens[1, 2:] = 0, 0
    theirs = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=12,
        type_vocab_size=2,
        attn_implementation="eager",
    )
    for name, pool in (("bert_pooler", "pooler"), ("bert_mean", "mean")):
        bert = BertConfig(
            vocab_size=VOCAB,
            context_length=8,
            max_positions=12,
            first_position=0,
            token_types=2,
            pad_id=0,
            pool=pool,
            projection="none",
            norm_eps=1e-12,
            **TOWER,
        )
        model = towers.fill(transformers.BertModel(theirs))
        mask = torch.from_numpy(tokens != 0)
        out = model(input_ids=torch.from_numpy(tokens).long(), attention_mask=mask.long())
        counted = (out.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        pooled = out.pooler_output if pool == "pooler" else counted
        config = model_config(text=bert)
        cases[name] = case("text", config, shapes_of(model), tokens, pooled)
    reference("single_text_towers", flat(cases))
