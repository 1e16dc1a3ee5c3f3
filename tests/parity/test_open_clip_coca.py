"""open_clip's CoCa, with and without its attentional pooler, against ours."""

import numpy as np
import pytest

from clipjax.config import (
    BertConfig,
    CocaDecoderConfig,
    DualEncoderConfig,
    TextConfig,
    ViTConfig,
    preset,
)

pytestmark = pytest.mark.parity

SIDE, PATCH, WIDTH, HEADS, DEPTH, VOCAB, LENGTH = 16, 8, 32, 2, 2, 40, 8
QUERIES, POOLER_HEADS = 5, 4


def coca_config(*, pooler, embed_dim, class_mask):
    text_width = embed_dim if pooler else WIDTH
    sizes = {"width": text_width, "depth": DEPTH, "num_heads": HEADS, "mlp_dim": 4 * text_width}
    return DualEncoderConfig(
        image=ViTConfig(
            image_size=SIDE,
            patch_size=PATCH,
            width=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            mlp_dim=4 * WIDTH,
            pool="coca" if pooler else "cls",
            pooler_queries=QUERIES,
            pooler_heads=POOLER_HEADS,
        ),
        text=TextConfig(
            vocab_size=VOCAB, context_length=LENGTH, pool="class", class_mask=class_mask, **sizes
        ),
        decoder=CocaDecoderConfig(**sizes),
        embed_dim=embed_dim,
    )


def caption_tokens():
    """Texts of several lengths; one fills all its tokens."""
    tokens = np.random.RandomState(3).randint(1, VOCAB - 2, (4, LENGTH)).astype(np.int32)
    tokens[:, 0] = VOCAB - 2
    for row, end in enumerate((3, 1, LENGTH - 1, LENGTH - 2)):
        tokens[row, end + 1 :] = 0
        tokens[row, end] = VOCAB - 1
    return tokens


@pytest.mark.parametrize(
    ("name", "fields", "grads"),
    [
        (
            "open_clip_coca",
            {"pooler": True, "embed_dim": 24, "class_mask": "shifted"},
            ["visual.attn_pool.attn.k_proj_weight", "visual.attn_pool.query"],
        ),
        (
            "open_clip_coca_equal_widths",
            {"pooler": True, "embed_dim": WIDTH, "class_mask": "exact"},
            ["visual.attn_pool.attn.in_proj_bias", "text_decoder.cross_attn.1.ln_1_kv.weight"],
        ),
        (
            "open_clip_coca_without_pooler",
            {"pooler": False, "embed_dim": 24, "class_mask": "shifted"},
            ["visual.ln_post.weight", "visual.class_embedding"],
        ),
    ],
    ids=["pooler", "equal_widths", "without_pooler"],
)
def test_coca(towers, open_clip, name, fields, grads):
    config = coca_config(**fields)
    sizes = {
        "context_length": LENGTH,
        "vocab_size": VOCAB,
        "width": config.text.width,
        "heads": HEADS,
        "layers": DEPTH,
    }
    model = open_clip.CoCa(
        embed_dim=config.embed_dim,
        vision_cfg={
            "image_size": SIDE,
            "patch_size": PATCH,
            "width": WIDTH,
            "layers": DEPTH,
            "head_width": WIDTH // HEADS,
            "attentional_pool": fields["pooler"],
            "attn_pooler_queries": QUERIES,
            "attn_pooler_heads": POOLER_HEADS,
            "output_tokens": True,
        },
        text_cfg={**sizes, "embed_cls": True, "output_tokens": True},
        multimodal_cfg=sizes,
    )
    model.text.correct_cls_mask = fields["class_mask"] == "exact"
    towers.fill(model)
    images, pixels = towers.pixels(4, SIDE)
    tokens = caption_tokens()
    out = model(
        towers.normalised(pixels, config),
        towers.torch.from_numpy(tokens).long(),
        output_labels=False,
    )
    towers.store(
        name,
        config,
        model,
        format="open_clip",
        options={"custom_text": True},
        inputs={"images": images, "tokens": tokens},
        pixels=pixels,
        embeds=(out["image_features"], out["text_features"]),
        scale=out["logit_scale"],
        grads=[*grads, "text.cls_emb", "text_decoder.cross_attn.0.attn.in_proj_weight"],
        caption_logits=out["logits"],
    )


def roberta(transformers, text):
    return transformers.RobertaConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.width,
        num_hidden_layers=text.depth,
        num_attention_heads=text.num_heads,
        intermediate_size=text.mlp_dim,
        max_position_embeddings=text.max_positions,
        type_vocab_size=text.token_types,
        layer_norm_eps=text.norm_eps,
        pad_token_id=text.pad_id,
    )


@pytest.fixture
def build(open_clip, transformers, monkeypatch):
    """Builds a CoCa around RoBERTa without asking the hub for its config."""

    def make(config, settings):
        given = roberta(transformers, config.text)
        monkeypatch.setattr(open_clip.hf_model.AutoConfig, "from_pretrained", lambda name: given)
        text = {**settings["text_cfg"], "hf_model_pretrained": False}
        return open_clip.CoCa(**{**settings, "text_cfg": text})

    return make


def test_coca_of_roberta(towers, build):
    """Its decoder has another vocabulary, and goes on from tokens of which some are padding."""
    sizes = {"width": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_dim": 4 * WIDTH}
    config = DualEncoderConfig(
        image=ViTConfig(image_size=SIDE, patch_size=PATCH, **sizes),
        text=BertConfig(
            vocab_size=VOCAB,
            context_length=LENGTH,
            max_positions=LENGTH + 2,
            pad_id=1,
            projection="linear",
            **sizes,
        ),
        decoder=CocaDecoderConfig(vocab_size=VOCAB + 2, **sizes),
        embed_dim=24,
    )
    decoder = {"context_length": LENGTH, "width": WIDTH, "heads": HEADS, "layers": DEPTH}
    vision = {"image_size": SIDE, "patch_size": PATCH, "width": WIDTH, "layers": DEPTH}
    model = build(
        config,
        {
            "embed_dim": 24,
            "vision_cfg": {**vision, "head_width": WIDTH // HEADS, "output_tokens": True},
            "text_cfg": {
                "hf_model_name": "given",
                "hf_proj_type": "linear",
                "vocab_size": VOCAB + 2,
                "output_tokens": True,
            },
            "multimodal_cfg": decoder,
        },
    )
    towers.fill(model)
    images, pixels = towers.pixels(4, SIDE)
    tokens = caption_tokens()
    tokens = np.where(tokens == 0, 1, np.maximum(tokens, 2))
    out = model(
        towers.normalised(pixels, config),
        towers.torch.from_numpy(tokens).long(),
        output_labels=False,
    )
    towers.store(
        "open_clip_coca_roberta",
        config,
        model,
        format="open_clip",
        options={"custom_text": True},
        inputs={"images": images, "tokens": tokens},
        pixels=pixels,
        embeds=(out["image_features"], out["text_features"]),
        scale=out["logit_scale"],
        grads=["text.proj.weight", "text_decoder.cross_attn.0.attn.in_proj_weight"],
        caption_logits=out["logits"],
        pad_id=1,
    )


def test_the_preset_of_roberta_has_the_parameters_of_open_clip(torch, open_clip, build):
    from clipjax.models import num_params

    config = preset("coca_roberta-ViT-B-32")
    settings = dict(open_clip.get_model_config("coca_roberta-ViT-B-32"))
    settings.pop("custom_text")
    with torch.device("meta"):
        model = build(config, settings)
    assert num_params(config) == sum(p.numel() for p in model.parameters())
