"""open_clip's HFTextEncoder, RoBERTa and XLM-R, against ours."""

import numpy as np
import pytest

from clipjax.config import BertConfig, DualEncoderConfig, ViTConfig

pytestmark = pytest.mark.parity

SIDE, WIDTH, EMBED, VOCAB, LENGTH = 16, 32, 24, 60, 10
TOWER = {"width": WIDTH, "depth": 2, "num_heads": 2, "mlp_dim": 4 * WIDTH}
START, PAD, END = 0, 1, 2


@pytest.fixture
def build(open_clip, transformers, monkeypatch):
    """Builds a CustomTextCLIP around a config of transformers, without asking the hub for one."""

    def make(hf_config, config, **text):
        monkeypatch.setattr(
            open_clip.hf_model.AutoConfig, "from_pretrained", lambda name: hf_config
        )
        return open_clip.CustomTextCLIP(
            embed_dim=config.embed_dim,
            vision_cfg={
                "image_size": config.image.image_size,
                "patch_size": config.image.patch_size,
                "width": config.image.width,
                "layers": config.image.depth,
                "head_width": config.image.width // config.image.num_heads,
            },
            text_cfg={"hf_model_name": "given", "hf_model_pretrained": False, **text},
            quick_gelu=config.image.activation == "quick_gelu",
        )

    return make


def hf_config(kind, bert, **fields):
    return kind(
        vocab_size=bert.vocab_size,
        hidden_size=bert.width,
        num_hidden_layers=bert.depth,
        num_attention_heads=bert.num_heads,
        intermediate_size=bert.mlp_dim,
        max_position_embeddings=bert.max_positions,
        type_vocab_size=bert.token_types,
        layer_norm_eps=bert.norm_eps,
        pad_token_id=bert.pad_id,
        hidden_act=bert.activation,
        **fields,
    )


def texts():
    """Several lengths; one fills all its tokens, one has padding inside."""
    tokens = np.random.RandomState(3).randint(END + 1, VOCAB, (4, LENGTH)).astype(np.int32)
    tokens[:, 0] = START
    for row, end in enumerate((3, 1, 6, LENGTH - 1)):
        tokens[row, end] = END
        tokens[row, end + 1 :] = PAD
    tokens[2, 3] = PAD
    return tokens


# name: class of the config, pooler and projection there, fields here
CASES = {
    "open_clip_roberta": (
        "RobertaConfig",
        {"hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"},
        {"pool": "mean", "projection": "linear"},
    ),
    "open_clip_roberta_pooler": (
        "RobertaConfig",
        {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"},
        {"pool": "pooler", "projection": "linear"},
    ),
    "open_clip_xlm_roberta": (
        "XLMRobertaConfig",
        {"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"},
        {"pool": "mean", "projection": "mlp"},
    ),
    "open_clip_bert": (
        "BertConfig",
        {"hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "mlp"},
        {
            "pool": "first",
            "projection": "mlp",
            "first_position": 0,
            "token_types": 2,
            "norm_eps": 1e-12,
            "max_positions": LENGTH,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_text(name, towers, build, transformers):
    kind, theirs, ours = CASES[name]
    config = DualEncoderConfig(
        image=ViTConfig(image_size=SIDE, patch_size=8, activation="quick_gelu", **TOWER),
        text=BertConfig(
            **{
                "vocab_size": VOCAB,
                "context_length": LENGTH,
                "max_positions": LENGTH + 2,
                "pad_id": PAD,
                **TOWER,
                **ours,
            }
        ),
        embed_dim=EMBED,
    )
    model = build(hf_config(getattr(transformers, kind), config.text), config, **theirs)
    towers.fill(model)
    images, pixels = towers.pixels(4, SIDE)
    tokens = texts()
    layer = "text.transformer.encoder.layer.0"
    towers.store(
        name,
        config,
        model,
        format="open_clip",
        options={"custom_text": True},
        inputs={"images": images, "tokens": tokens},
        pixels=pixels,
        embeds=(
            model.encode_image(towers.normalised(pixels, config)),
            model.encode_text(towers.torch.from_numpy(tokens).long()),
        ),
        scale=model.logit_scale.exp(),
        grads=[
            f"{layer}.attention.self.key.weight",
            f"{layer}.output.LayerNorm.bias",
            "text.transformer.embeddings.position_embeddings.weight",
        ],
    )


# name of the preset: class of the config there
PRESETS = {
    "roberta-ViT-B-32": "RobertaConfig",
    "xlm-roberta-base-ViT-B-32": "XLMRobertaConfig",
    "xlm-roberta-large-ViT-H-14": "XLMRobertaConfig",
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_parameters_of_open_clip_to_the_last_one(
    name, build, torch, open_clip, transformers
):
    from clipjax.config import preset
    from clipjax.models import num_params

    config = preset(name)
    text = dict(open_clip.get_model_config(name)["text_cfg"])
    with torch.device("meta"):
        model = build(hf_config(getattr(transformers, PRESETS[name]), config.text), config, **text)
    assert num_params(config) == sum(p.numel() for p in model.parameters())
