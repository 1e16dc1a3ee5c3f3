"""Parameters and FLOPs of the presets against the published profile, and by hand."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from clipjax.config import (
    PRESETS,
    CappaDecoderConfig,
    ComputeConfig,
    ConvNetConfig,
    ConvNeXtConfig,
    DualEncoderConfig,
    ResNetConfig,
    TextConfig,
    ViTConfig,
)
from clipjax.core.flops import program_flops
from clipjax.models import TEXT_TOWERS, num_params
from clipjax.models.cost import (
    decoder_forward_flops,
    image_forward_flops,
    pair_forward_flops,
    text_forward_flops,
)

# open_clip, docs/model_profile.csv, commit 3b37473: millions of parameters; GFLOP of a pair, of the
# image tower, of the text tower. fvcore counts a multiply-add once and the file doubles it.
with open(Path(__file__).parents[1] / "golden" / "published_profile.csv") as file:
    PROFILE = {row["model"]: row for row in csv.DictReader(file)}

# The file has two decimals: what rounds to them lies within half of the last one.
ROUNDING = 0.005 + 1e-9

NAMES = sorted(
    name for name in PROFILE.keys() & PRESETS.keys() if PRESETS[name].text.kind in TEXT_TOWERS
)

# Texts of these were profiled with as many tokens as the table of positions has rows, though no
# token has the first two. Their `context_length` is 77, as open_clip's tokenizer cuts them.
PROFILED_TOKENS = {
    "roberta-ViT-B-32": 514,
    "xlm-roberta-base-ViT-B-32": 514,
    "xlm-roberta-large-ViT-H-14": 514,
    # Its decoder reads 76 tokens.
    "coca_roberta-ViT-B-32": 76,
}


def test_every_published_model_of_these_towers_is_a_preset():
    """Left out are towers that we do not have: relative positions, Swin, mT5, NLLB."""
    assert PROFILE.keys() - set(NAMES) == {
        "vit_relpos_medium_patch16_cls_224",
        "swin_base_patch4_window7_224",
        "mt5-base-ViT-B-32",
        "mt5-xl-ViT-H-14",
        "nllb-clip-base",
        "nllb-clip-large",
    }


@pytest.mark.parametrize("name", NAMES)
def test_flops_are_those_that_open_clip_publishes(name):
    config, row, tokens = PRESETS[name], PROFILE[name], PROFILED_TOKENS.get(name)
    unread = unread_attention(config)
    for published, ours in (
        ("gflops", pair_forward_flops(config, num_tokens=tokens) + unread),
        ("image_gflops", image_forward_flops(config) + unread),
        ("text_gflops", text_forward_flops(config, tokens)),
    ):
        assert ours / 1e9 == pytest.approx(float(row[published]), abs=ROUNDING), published


def unread_attention(config):
    """What the profiled ResNets compute and throw away.

    Their attention pool has a query for each of N places beside the mean, but only that of the mean
    is read, and here only that is computed: N times query, scores, mixture and output less.
    """
    image = config.image
    if not isinstance(image, ResNetConfig):
        return 0
    places, width = (image.image_size // 32) ** 2, 32 * image.width
    return places * (2 * width**2 + 4 * (places + 1) * width + 2 * width * config.embed_dim)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_that_open_clip_publishes(name):
    published = float(PROFILE[name]["mparams"])
    assert num_params(PRESETS[name]) / 1e6 == pytest.approx(published, abs=ROUNDING)


def test_a_convnet_by_hand():
    """16 pixels, stride 2: 8 x 8 of 4 channels, one block; halved to 4 x 4 of 6 channels, two."""
    image = ConvNetConfig(image_size=16, stem_stride=2, widths=(4, 6), depths=(1, 2))
    stem = 2 * (3 * 3 * 3) * 4 * 64
    first = 2 * (2 * (3 * 3 * 4) * 4 * 64)  # a block is two 3 x 3 convolutions
    halving = 2 * (2 * 2 * 4) * 6 * 16
    second = 2 * 2 * (2 * (3 * 3 * 6) * 6 * 16)
    head = 2 * 6 * 5
    config = DualEncoderConfig(image=image, embed_dim=5)
    assert image_forward_flops(config) == stem + first + halving + second + head


def test_a_resnet_by_hand():
    """32 pixels, width 2: 16 x 16, after the pool 8 x 8, stages of 8, 4, 2 and 1 places a side."""
    image = ResNetConfig(image_size=32, width=2, depths=(1, 2, 1, 1), num_heads=4)
    stem = 2 * 256 * 9 * (3 * 1 + 1 * 1 + 1 * 2)

    def block(inputs, width, before, after):
        own = before * (inputs * width + 9 * width**2) + after * 4 * width**2
        return 2 * (own + (after * inputs * 4 * width if inputs != 4 * width else 0))

    stages = block(2, 2, 64, 64) + block(8, 4, 64, 16) + block(16, 4, 16, 16)
    stages += block(16, 8, 16, 4) + block(32, 16, 4, 1)
    # One place and the mean: keys and values of both, query, two scores, mixture, output.
    pool = 2 * (2 * 2 * 64 * 64 + 64 * 64 + 2 * 64 + 2 * 64 + 64 * 5)
    config = DualEncoderConfig(image=image, embed_dim=5)
    assert image_forward_flops(config) == stem + stages + pool


def test_a_convnext_by_hand():
    """16 pixels: 4 x 4 patches of 6 channels, two blocks; halved to 2 x 2 of 10, one block."""
    image = ConvNeXtConfig(image_size=16, widths=(6, 10), depths=(2, 1), projection="mlp")
    stem = 2 * 16 * (4 * 4 * 3) * 6

    def block(places, width):  # depthwise 7 x 7, and two maps with four times the channels
        return 2 * places * (49 * width + 8 * width**2)

    down = 2 * 4 * (2 * 2 * 6) * 10
    head = 2 * (10 * 14 + 14 * 7)
    config = DualEncoderConfig(image=image, embed_dim=7)
    assert image_forward_flops(config) == stem + 2 * block(16, 6) + down + block(4, 10) + head


def test_a_vit_and_a_text_by_hand():
    """Per block, N tokens of width D, MLP width M: 8 N D^2 + 4 N^2 D + 4 N D M."""
    config = DualEncoderConfig()

    def blocks(tokens, width, depth):
        return depth * (8 * tokens * width**2 + 4 * tokens**2 * width + 16 * tokens * width**2)

    image = 2 * 49 * 3 * 32**2 * 768 + blocks(50, 768, 12) + 2 * 768 * 512
    text = blocks(77, 512, 12) + 2 * 512 * 512
    assert image_forward_flops(config) == image
    assert text_forward_flops(config) == text
    assert pair_forward_flops(config) == image + text
    assert text_forward_flops(config, 32) == blocks(32, 512, 12) + 2 * 512 * 512


def test_a_coca_decoder_by_hand():
    """Of N tokens: per pair of blocks the text block, and one whose keys are the K image tokens."""
    config, tokens, seen, width = PRESETS["coca_ViT-B-32"], 76, 255, 512
    text_block = 24 * tokens * width**2 + 4 * tokens**2 * width
    image_block = 20 * tokens * width**2 + 4 * seen * width**2 + 4 * tokens * seen * width
    decoder = 12 * (text_block + image_block) + 2 * tokens * width * 49408
    assert decoder_forward_flops(config) == decoder
    assert pair_forward_flops(config) == (
        image_forward_flops(config) + text_forward_flops(config) + decoder
    )


def test_a_cappa_decoder_by_hand():
    """Whose image tokens are the patches, as many as the image has."""
    tokens, width, mlp, ids, depth = 5, 32, 48, 20, 3
    config = DualEncoderConfig(
        image=ViTConfig(image_size=32, patch_size=8, width=64, num_heads=2, pool="mean"),
        text=TextConfig(vocab_size=ids, context_length=tokens, width=64, num_heads=2),
        decoder=CappaDecoderConfig(
            vocab_size=ids,
            context_length=tokens,
            width=width,
            num_heads=2,
            mlp_dim=mlp,
            depth=depth,
        ),
    )

    def expected(seen, tokens):
        own = 8 * tokens * width**2 + 4 * tokens**2 * width
        read = 4 * tokens * width**2 + 4 * seen * 64 * width + 4 * tokens * seen * width
        return depth * (own + read + 4 * tokens * width * mlp) + 2 * tokens * width * ids

    assert decoder_forward_flops(config) == expected(16, 5)
    assert decoder_forward_flops(config, 9, 4) == expected(9, 4)


def test_without_a_decoder_there_is_nothing_to_count():
    assert decoder_forward_flops(DualEncoderConfig()) == 0


def test_how_a_model_is_computed_does_not_change_its_cost():
    text = TextConfig(width=64, num_heads=2, mlp_dim=128, depth=2)
    for compute in (ComputeConfig(scan_layers=True), ComputeConfig(remat="full")):
        assert text_forward_flops(DualEncoderConfig(text=text, compute=compute)) == (
            text_forward_flops(DualEncoderConfig(text=text))
        )


def test_xla_counts_about_the_same():
    """Beside the products it counts the softmax, about five operations an element."""

    def attend(x, y):
        return jax.nn.softmax(x @ y) @ y.T

    x, y = jnp.zeros((64, 1024)), jnp.zeros((1024, 512))
    counted = jax.jit(attend).lower(x, y).cost_analysis()["flops"]
    assert program_flops(attend, x, y) == pytest.approx(counted, rel=0.01)
