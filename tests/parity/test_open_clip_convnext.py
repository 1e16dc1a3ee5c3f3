"""open_clip's CLIP with timm's ConvNeXt, against ours."""

import warnings

import numpy as np
import pytest

from clipjax.config import ConvNeXtConfig, DualEncoderConfig, TextConfig

pytestmark = pytest.mark.parity

SIDE, WIDTHS, DEPTHS, VOCAB, LENGTH, EMBED = 64, (8, 12, 16, 24), (1, 2, 1, 1), 64, 10, 24


@pytest.fixture
def small_timm(open_clip, monkeypatch):
    """Makes timm build every ConvNeXt small, with further settings."""
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from timm.models import convnext

    def small(**more):
        def create_model(name, **settings):
            build = getattr(convnext, name)
            return build(depths=DEPTHS, dims=WIDTHS, **more, **settings)

        monkeypatch.setattr(timm, "create_model", create_model)

    return small


def convnext_config(projection, norm_eps):
    return DualEncoderConfig(
        image=ConvNeXtConfig(
            image_size=SIDE,
            widths=WIDTHS,
            depths=DEPTHS,
            projection=projection,
            norm_eps=norm_eps,
        ),
        text=TextConfig(
            vocab_size=VOCAB, context_length=LENGTH, width=32, depth=1, num_heads=2, mlp_dim=128
        ),
        embed_dim=EMBED,
    )


@pytest.mark.parametrize(
    ("projection", "norm_eps", "grad"),
    [
        ("linear", None, "visual.trunk.stages.1.blocks.0.conv_dw.weight"),
        # Large, so that a norm that has another one is seen.
        ("mlp", 1e-2, "visual.head.mlp.fc1.weight"),
    ],
)
def test_convnext(towers, open_clip, small_timm, projection, norm_eps, grad):
    config = convnext_config(projection, norm_eps or 1e-6)
    small_timm(norm_eps=norm_eps)
    model = open_clip.CLIP(
        embed_dim=EMBED,
        vision_cfg={
            "timm_model_name": "convnext_base",
            "timm_pool": "",
            "timm_proj": projection,
            "image_size": SIDE,
        },
        text_cfg={
            "context_length": LENGTH,
            "vocab_size": VOCAB,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    )
    model = towers.fill(model)
    images, pixels = towers.pixels(2, SIDE)
    tokens = np.random.RandomState(3).randint(1, VOCAB - 1, (2, LENGTH)).astype(np.int32)
    tokens[:, -1] = VOCAB - 1
    towers.store(
        f"open_clip_convnext_{projection}",
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
        grads=[grad, "visual.trunk.stages.2.downsample.1.weight"],
        every=3,
    )
