"""Parameters and FLOPs of the presets against the published profile, and by hand."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from clipjax.config import PRESETS, ComputeConfig, ConvNetConfig, DualEncoderConfig, TextConfig
from clipjax.core.flops import program_flops
from clipjax.models import num_params
from clipjax.models.cost import image_forward_flops, pair_forward_flops, text_forward_flops

# open_clip, docs/model_profile.csv, commit 3b37473: millions of parameters; GFLOP of a pair, of the
# image tower, of the text tower. fvcore counts a multiply-add once and the file doubles it.
with open(Path(__file__).parents[1] / "golden" / "published_profile.csv") as file:
    PROFILE = {row["model"]: row for row in csv.DictReader(file)}

# The file has two decimals: what rounds to them lies within half of the last one.
ROUNDING = 0.005 + 1e-9

NAMES = sorted(PROFILE.keys() & PRESETS.keys())

# Texts of these were profiled with as many tokens as the table of positions has rows, though no
# token has the first two. Their `context_length` is 77, as open_clip's tokenizer cuts them.
PROFILED_TOKENS = {
    "roberta-ViT-B-32": 514,
    "xlm-roberta-base-ViT-B-32": 514,
    "xlm-roberta-large-ViT-H-14": 514,
}


@pytest.mark.parametrize("name", NAMES)
def test_flops_are_those_that_open_clip_publishes(name):
    config, row, tokens = PRESETS[name], PROFILE[name], PROFILED_TOKENS.get(name)
    for published, ours in (
        ("gflops", pair_forward_flops(config, None, tokens)),
        ("image_gflops", image_forward_flops(config)),
        ("text_gflops", text_forward_flops(config, tokens)),
    ):
        assert ours / 1e9 == pytest.approx(float(row[published]), abs=ROUNDING), published


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
