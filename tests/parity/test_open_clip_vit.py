"""open_clip's models with other Vision Transformers than CLIP's: CLIPA, layer scale, timm's."""

import dataclasses
import warnings

import numpy as np
import pytest

from clipjax.config import PRESETS, DualEncoderConfig, TextConfig, ViTConfig
from clipjax.config.presets_siglip import SIGLIPS
from clipjax.config.presets_vit import VITS
from clipjax.interchange.formats import layout_of
from clipjax.interchange.open_clip.config import from_open_clip, to_open_clip
from clipjax.models import param_shapes

pytestmark = pytest.mark.parity

SIDE, PATCH, WIDTH, HEADS, DEPTH, VOCAB, LENGTH, EMBED = 16, 8, 32, 2, 2, 64, 10, 24
TOWER = {"width": WIDTH, "depth": DEPTH, "num_heads": HEADS}
TEXT = {
    "context_length": LENGTH,
    "vocab_size": VOCAB,
    "width": WIDTH,
    "heads": HEADS,
    "layers": DEPTH,
}
VISION = {
    "image_size": SIDE,
    "patch_size": PATCH,
    "width": WIDTH,
    "layers": DEPTH,
    "head_width": WIDTH // HEADS,
}
# Small numbers in the first blocks: there the epsilon of a norm counts.
PIXELS = {"pixel_mean": (0.4, 0.5, 0.6), "pixel_std": (4.0, 3.0, 5.0)}
TOKENS = np.random.RandomState(3).randint(1, VOCAB - 2, (4, LENGTH)).astype(np.int32)
# Ends at other places, twice in one row; the highest id is not the end.
for _row, _end in enumerate((3, 1, 6, LENGTH - 1)):
    TOKENS[_row, _end + 1 :] = 2
    TOKENS[_row, _end] = 1
TOKENS[0, 5] = 1


def vit(**fields):
    return ViTConfig(
        **(dict(image_size=SIDE, patch_size=PATCH, mlp_dim=4 * WIDTH) | TOWER | fields)
    )


def text(**fields):
    return TextConfig(
        **(
            dict(vocab_size=VOCAB, context_length=LENGTH, mlp_dim=4 * WIDTH, end_id=1)
            | TOWER
            | fields
        )
    )


def store(towers, name, config, model, grads, *, custom_text):
    images, pixels = towers.pixels(4, config.image.image_size)
    towers.store(
        name,
        config,
        model,
        format="open_clip",
        options={"custom_text": custom_text},
        inputs={"images": images, "tokens": TOKENS},
        pixels=pixels,
        embeds=(
            model.encode_image(towers.normalised(pixels, config)),
            model.encode_text(towers.torch.from_numpy(TOKENS).long()),
        ),
        scale=model.logit_scale.exp(),
        bias=0.0 if model.logit_bias is None else model.logit_bias,
        grads=grads,
    )


def test_clipa(towers, open_clip):
    """A class token that is not pooled, no norm before the blocks; a text tower that sees all."""
    config = DualEncoderConfig(
        **PIXELS,
        image=vit(pool="mean", unpooled_class_token=True, pre_norm=False),
        text=text(causal=False, pool="last", end_id=None),
        embed_dim=EMBED,
    )
    vision = VISION | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    model = open_clip.CLIP(
        embed_dim=EMBED,
        vision_cfg=vision | {"pos_embed_type": "sin_cos_2d"},
        text_cfg=TEXT | {"no_causal_mask": True, "pool_type": "last"},
    )
    grads = ["visual.class_embedding", "positional_embedding"]
    store(towers, "open_clip_clipa", config, towers.fill(model), grads, custom_text=False)


def test_layer_scale_and_text_options(towers, open_clip):
    """Gains in both towers, an end in the middle of the vocabulary, an MLP of another width."""
    config = DualEncoderConfig(
        **PIXELS,
        image=vit(
            layer_scale=1e-4,
            pool="mean",
            unpooled_class_token=True,
            norm_before_pool=True,
            mlp_dim=77,
            norm_eps=1e-3,
            activation="gelu_tanh",
        ),
        text=text(layer_scale=1e-3, projection_bias=True, norm_eps=1e-3, activation="gelu_tanh"),
        embed_dim=EMBED,
    )
    options = {"norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}}
    model = open_clip.CustomTextCLIP(
        embed_dim=EMBED,
        vision_cfg=VISION
        | options
        | {"ls_init_value": 1e-4, "pool_type": "avg", "mlp_ratio": 2.42},
        text_cfg=TEXT
        | options
        | {"ls_init_value": 1e-3, "proj_bias": True, "pool_type": "eos", "eos_id": 1},
    )
    grads = ["visual.transformer.resblocks.1.ls_2.gamma", "text.text_projection.bias"]
    store(towers, "open_clip_layer_scale", config, towers.fill(model), grads, custom_text=True)


class TinyTimm:
    """Gives open_clip timm's models at a tiny size."""

    def __init__(self, monkeypatch):
        import timm

        self.tiny = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH}
        self.tiny |= {"depth": DEPTH, "num_heads": HEADS}
        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, **self.tiny, **k))


@pytest.fixture
def tiny_timm(open_clip, monkeypatch):
    return TinyTimm(monkeypatch)


@pytest.mark.parametrize(
    ("timm_name", "image_activation", "text_activation"),
    [
        ("vit_base_patch16_siglip_224", "gelu", "gelu"),
        ("vit_base_patch32_siglip_256", "gelu_tanh", "gelu_tanh"),
    ],
    ids=["siglip", "siglip2"],
)
def test_siglip(
    towers, open_clip, tiny_timm, request, timm_name, image_activation, text_activation
):
    name = request.node.callspec.id
    second = name == "siglip2"
    config = DualEncoderConfig(
        **PIXELS,
        image=vit(
            # Pixels behind the last whole patch, as of So400m/14 at 384.
            image_size=SIDE + 3 if second else SIDE,
            crop_remainder=second,
            pool="map",
            pre_norm=False,
            patch_bias=True,
            projection=False,
            norm_eps=1e-6,
            activation=image_activation,
        ),
        text=text(
            causal=False,
            pool="last",
            end_id=None,
            projection=second,
            projection_bias=second,
            norm_eps=1e-6,
            activation=text_activation,
        ),
        embed_dim=WIDTH,
        init_logit_scale=10.0,
        init_logit_bias=-10.0,
    )
    tiny_timm.tiny["img_size"] = config.image.image_size
    projection = {"proj_bias": True} if second else {"proj_type": "none"}
    act = {"act_kwargs": {"approximate": "tanh"}} if second else {}
    model = open_clip.CustomTextCLIP(
        embed_dim=WIDTH,
        init_logit_bias=-10,
        vision_cfg={
            "image_size": config.image.image_size,
            "timm_model_name": timm_name,
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        text_cfg=TEXT
        | act
        | projection
        | {"no_causal_mask": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
    )
    grads = ["visual.trunk.attn_pool.kv.weight", "visual.trunk.attn_pool.latent"]
    store(towers, f"open_clip_{name}", config, towers.fill(model), grads, custom_text=True)


def test_mean_over_patches(towers, open_clip, tiny_timm):
    """timm's GAP model: no class token, no bias of queries, keys and values, the norm first."""
    config = DualEncoderConfig(
        **PIXELS,
        image=vit(
            pool="mean",
            norm_before_pool=True,
            pre_norm=False,
            patch_bias=True,
            qkv_bias=False,
            layer_scale=1e-6,
            norm_eps=1e-6,
        ),
        text=text(end_id=VOCAB - 1),
        embed_dim=EMBED,
    )
    model = open_clip.CLIP(
        embed_dim=EMBED,
        vision_cfg={
            "image_size": SIDE,
            "timm_model_name": "vit_medium_patch16_gap_256",
            "timm_pool": "",
            "timm_proj": "linear",
        },
        text_cfg=TEXT | {"pool_type": "eos", "eos_id": VOCAB - 1},
    )
    grads = ["visual.head.proj.weight", "visual.trunk.blocks.0.ls1.gamma"]
    store(towers, "open_clip_gap", config, towers.fill(model), grads, custom_text=False)


def test_timm_class_token(towers, open_clip, tiny_timm):
    """CLIP's tower in timm's names with timm's classifier, whose bias stays."""
    config = DualEncoderConfig(
        **PIXELS, image=vit(projection_bias=True), text=text(causal=False), embed_dim=EMBED
    )
    model = open_clip.CustomTextCLIP(
        embed_dim=EMBED,
        vision_cfg={
            "image_size": SIDE,
            "timm_model_name": "vit_large_patch14_clip_224",
            "timm_pool": "token",
            "timm_proj": None,
        },
        text_cfg=TEXT | {"no_causal_mask": True, "pool_type": "eos", "eos_id": 1},
    )
    grads = ["visual.trunk.head.bias", "visual.trunk.cls_token"]
    store(towers, "open_clip_timm_class_token", config, towers.fill(model), grads, custom_text=True)


@pytest.mark.parametrize("name", [*VITS, *SIGLIPS])
def test_the_published_config_is_the_preset(open_clip, name):
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    published = dict(open_clip.get_model_config(name))
    tags = list_pretrained_tags_by_model(name)
    # Later weights of a name may have been trained with another mean or resizing.
    weights = get_pretrained_cfg(name, tags[0]) if tags else {}
    fields = ("mean", "std", "interpolation", "resize_mode")
    preprocessing = {f: weights[f] for f in fields if f in weights}
    preprocessing |= {f: list(preprocessing[f]) for f in ("mean", "std") if f in preprocessing}
    config, options = from_open_clip(published, preprocessing)
    scale = PRESETS[name].init_logit_scale
    assert dataclasses.replace(config, init_logit_scale=scale) == PRESETS[name]
    assert options == {"custom_text": bool(published.get("custom_text"))}


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "vit_medium_patch16_gap_256", "ViT-M-16-alt"])
def test_open_clip_builds_what_is_written(open_clip, torch, name):
    written = to_open_clip(PRESETS[name])["model_cfg"]
    ours = layout_of(
        "open_clip", PRESETS[name], custom_text=bool(written.pop("custom_text", False))
    )
    kind = open_clip.CLIP if "SigLIP" not in name else open_clip.CustomTextCLIP
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = kind(**written).state_dict()
    shapes = param_shapes(PRESETS[name])
    assert {n: tuple(t.shape) for n, t in theirs.items()} == {
        n: entry.their_shape(shapes[entry.ours]) for entry in ours.entries for n in entry.theirs
    }
