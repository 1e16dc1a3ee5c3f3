"""timm's Eva as an image tower of open_clip, against ours."""

import dataclasses

import numpy as np
import pytest

from clipjax.config import DualEncoderConfig, EvaConfig, TextConfig
from clipjax.interchange.formats import layout_of
from clipjax.models import param_shapes

pytestmark = pytest.mark.parity

SIDE, PATCH, WIDTH, HEADS, DEPTH, VOCAB, LENGTH, EMBED = 16, 4, 32, 2, 2, 64, 10, 24

# Grids of 4 x 4 patches, as if trained on 3 x 3: rotary positions are fractions.
EVA02 = EvaConfig(
    image_size=SIDE, patch_size=PATCH, width=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_dim=40,
    rope_grid=3,
)  # fmt: skip
PLAIN = dataclasses.replace(
    EVA02, swiglu=False, mlp_norm=False, attention_norm=False, rope=False, fused_qkv=True
)
TOWERS = {
    "eva02": EVA02,
    # No model of open_clip has it, but the tower may: gate and value in one matrix, mean pooling.
    "eva02_packed": dataclasses.replace(
        EVA02, mlp_norm=False, attention_norm=False, fused_qkv=True, pool="mean"
    ),
    "eva01": PLAIN,
    # Norms behind the branches see larger numbers: it takes some blocks to tell their epsilon.
    "eva02_e": dataclasses.replace(PLAIN, post_norm=True, depth=6),
}


def timm_eva(eva):
    """Eva with timm's names for the same options."""
    from timm.models.eva import Eva

    return Eva(
        img_size=eva.image_size,
        patch_size=eva.patch_size,
        num_classes=EMBED,
        global_pool={"cls": "token", "mean": "avg"}[eva.pool],
        embed_dim=eva.width,
        depth=eva.depth,
        num_heads=eva.num_heads,
        qkv_fused=eva.fused_qkv,
        mlp_ratio=eva.mlp_dim / eva.width,
        swiglu_mlp=eva.swiglu,
        scale_mlp=eva.mlp_norm,
        scale_attn_inner=eva.attention_norm,
        use_rot_pos_emb=eva.rope,
        ref_feat_shape=(eva.rope_grid, eva.rope_grid) if eva.rope else None,
        use_post_norm=eva.post_norm,
    )


def filled(towers, model):
    """Fills a model, but for what it computes itself: rotary positions, the zero bias of keys."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model = towers.fill(model)
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    return model


@pytest.mark.parametrize("name", TOWERS)
def test_eva(towers, open_clip, name):
    text = {"width": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_dim": 4 * WIDTH}
    config = DualEncoderConfig(
        image=TOWERS[name],
        text=TextConfig(vocab_size=VOCAB, context_length=LENGTH, **text),
        embed_dim=EMBED,
    )
    model = open_clip.CustomTextCLIP(
        embed_dim=EMBED,
        vision_cfg={"image_size": SIDE, "patch_size": 8, "width": 64, "layers": 1},
        text_cfg={
            "context_length": LENGTH,
            "vocab_size": VOCAB,
            "width": WIDTH,
            "heads": HEADS,
            "layers": DEPTH,
        },
    )
    model.visual = towers.torch.nn.Sequential()
    model.visual.add_module("trunk", timm_eva(config.image))
    layout, ours = layout_of("open_clip", config, custom_text=True), param_shapes(config)
    assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == {
        theirs: entry.their_shape(ours[entry.ours])
        for entry in layout.entries
        for theirs in entry.theirs
    }
    model = filled(towers, model)
    images, pixels = towers.pixels(4, SIDE)
    tokens = np.random.RandomState(3).randint(1, VOCAB - 1, (4, LENGTH)).astype(np.int32)
    tokens[:, -1] = VOCAB - 1
    weight = "q_proj.weight" if name == "eva02" else "qkv.weight"
    bias = "q_proj.bias" if name == "eva02" else "v_bias"
    towers.store(
        f"open_clip_{name}",
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
            f"visual.trunk.blocks.0.attn.{weight}",
            f"visual.trunk.blocks.1.attn.{bias}",
            "visual.trunk.pos_embed",
            "visual.trunk.blocks.0.mlp.fc2.weight",
        ],
    )
