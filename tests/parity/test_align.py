"""AlignModel and EfficientNetModel of transformers, against ours."""

import dataclasses
import json

import numpy as np
import pytest

from clipjax.config import BertConfig, DualEncoderConfig, EfficientNetConfig, preset

pytestmark = pytest.mark.parity

VOCAB, LENGTH, WIDTH = 60, 10, 32
# 24 pixels become maps of 12, 6, 3, 2 and 1: the stride of block 3 meets an odd side.
NETWORK = EfficientNetConfig(
    image_size=24, width_factor=0.25, depth_factor=0.3, symmetric_padding=(3,)
)
CONFIG = DualEncoderConfig(
    image=NETWORK,
    text=BertConfig(
        vocab_size=VOCAB,
        context_length=LENGTH,
        max_positions=LENGTH + 3,
        first_position=0,
        token_types=2,
        pad_id=0,
        width=WIDTH,
        depth=2,
        num_heads=2,
        mlp_dim=48,
        pool="first",
        unused_pooler=True,
        projection="linear_bias",
        norm_eps=1e-12,
    ),
    embed_dim=NETWORK.out_channels,
    init_logit_scale=1.0,
    exact_temperature=True,
    pixel_mean=(0.5, 0.5, 0.5),
    pixel_std=(0.5, 0.5, 0.5),
    resize="squash",
    resize_side=30,
    interpolation="bilinear",
)


def texts():
    tokens = np.random.RandomState(3).randint(4, VOCAB, (3, LENGTH)).astype(np.int32)
    tokens[:, 0] = 2
    for row, end in enumerate((3, 1, LENGTH - 1)):
        tokens[row, end] = 3
        tokens[row, end + 1 :] = 0
    return tokens


def align(transformers, config, **fields):
    """AlignModel from the files that we write."""
    from clipjax.interchange.transformers import align

    settings = align.write(config)["config.json"]
    return transformers.AlignModel(transformers.AlignConfig.from_dict({**settings, **fields}))


def test_align(towers, transformers):
    torch, tokens = towers.torch, texts()
    model = towers.fill(align(transformers, CONFIG))
    images, pixels = towers.pixels(3, CONFIG.image.image_size)
    ids = torch.from_numpy(tokens).long()
    out = model(
        pixel_values=towers.normalised(pixels, CONFIG),
        input_ids=ids,
        attention_mask=(ids != 0).long(),
    )
    towers.store(
        "transformers_align",
        CONFIG,
        model,
        format="transformers",
        options={"model_type": "align"},
        inputs={"images": images, "tokens": tokens},
        pixels=pixels,
        embeds=(out.image_embeds, out.text_embeds),
        scale=1 / model.temperature,
        grads=[
            "vision_model.encoder.blocks.4.depthwise_conv.depthwise_conv.weight",
            "vision_model.encoder.blocks.6.squeeze_excite.reduce.bias",
            "text_model.encoder.layer.1.attention.self.value.weight",
        ],
    )
