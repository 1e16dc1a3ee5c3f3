"""open_clip's CLIP with its own Vision Transformer, against ours."""

import numpy as np
import pytest

from clipjax.config import DualEncoderConfig, TextConfig, ViTConfig

pytestmark = pytest.mark.parity

SIDE, PATCH, WIDTH, HEADS, DEPTH, VOCAB, LENGTH, EMBED = 16, 8, 32, 2, 2, 64, 10, 24


def clip_config(activation):
    tower = {"width": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_dim": 4 * WIDTH}
    return DualEncoderConfig(
        image=ViTConfig(image_size=SIDE, patch_size=PATCH, activation=activation, **tower),
        text=TextConfig(vocab_size=VOCAB, context_length=LENGTH, activation=activation, **tower),
        embed_dim=EMBED,
    )


def clip_tokens():
    """Texts of several lengths; one fills all its tokens."""
    tokens = np.random.RandomState(3).randint(1, VOCAB - 2, (4, LENGTH)).astype(np.int32)
    tokens[:, 0] = VOCAB - 2
    for row, end in enumerate((3, 1, 6, LENGTH - 1)):
        tokens[row, end + 1 :] = 0
        tokens[row, end] = VOCAB - 1
    return tokens


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_vit(towers, open_clip, activation):
    config = clip_config(activation)
    model = towers.fill(
        open_clip.CLIP(
            embed_dim=EMBED,
            vision_cfg={
                "image_size": SIDE,
                "patch_size": PATCH,
                "width": WIDTH,
                "layers": DEPTH,
                "head_width": WIDTH // HEADS,
            },
            text_cfg={
                "context_length": LENGTH,
                "vocab_size": VOCAB,
                "width": WIDTH,
                "heads": HEADS,
                "layers": DEPTH,
            },
            quick_gelu=activation == "quick_gelu",
        )
    )
    images, pixels = towers.pixels(4, SIDE)
    tokens = clip_tokens()
    towers.store(
        f"open_clip_vit_{activation}",
        config,
        model,
        format="open_clip",
        options={"custom_text": False},
        inputs={"images": images, "tokens": tokens},
        pixels=pixels,
        embeds=(
            model.encode_image(towers.normalised(pixels, config)),
            model.encode_text(towers.torch.from_numpy(tokens).long()),
        ),
        scale=model.logit_scale.exp(),
        grads=["visual.transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight"],
    )
