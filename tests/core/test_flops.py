import dataclasses

import pytest

from clipjax.config import PRESETS, ComputeConfig, ConvNetConfig, DualEncoderConfig
from clipjax.core.flops import (
    PEAK_FLOPS,
    image_forward_flops,
    pair_forward_flops,
    peak_flops,
    text_forward_flops,
)
from clipjax.models import num_params

# open_clip, docs/model_profile.csv, commit 3b37473: millions of parameters; GFLOP of a pair, of the
# image tower, of the text tower. fvcore counts a multiply-add once and the file doubles it.
PROFILE = {
    "ViT-S-32": (63.09, 5.66, 2.29, 3.38),
    "ViT-S-16": (62.26, 12.58, 9.2, 3.38),
    "ViT-M-32": (103.12, 9.95, 3.99, 5.96),
    "ViT-M-16": (102.02, 21.94, 15.98, 5.96),
    "ViT-B-32": (151.28, 14.78, 8.82, 5.96),
    "ViT-B-32-256": (151.29, 17.46, 11.5, 5.96),
    "ViT-B-16": (149.62, 41.09, 35.13, 5.96),
    "ViT-B-32-plus-256": (210.3, 24.83, 15.56, 9.27),
    "ViT-B-16-plus": (208.35, 56.75, 47.49, 9.27),
    "ViT-B-16-plus-240": (208.38, 64.03, 54.76, 9.27),
    "ViT-L-16": (427.74, 136.41, 123.11, 13.3),
    "ViT-L-16-320": (427.95, 271.93, 258.63, 13.3),
    "ViT-L-14": (427.62, 175.33, 162.03, 13.3),
    "ViT-L-14-280": (427.76, 271.79, 258.49, 13.3),
    "ViT-L-14-336": (427.94, 395.22, 381.92, 13.3),
    "ViT-H-16": (986.26, 301.72, 254.63, 47.09),
    "ViT-H-14": (986.11, 381.68, 334.59, 47.09),
    "ViT-g-14": (1366.68, 581.15, 534.06, 47.09),
    "ViT-bigG-14": (2539.57, 1065.36, 967.5, 97.86),
    "ViT-e-14": (4581.09, 2091.45, 1981.35, 110.1),
    "ViT-B-16-SigLIP": (203.16, 46.44, 35.42, 11.02),
    "ViT-B-16-SigLIP-256": (203.2, 57.84, 46.82, 11.02),
    "ViT-B-16-SigLIP-384": (203.45, 123.15, 112.13, 11.02),
    "ViT-B-16-SigLIP-512": (203.79, 227.26, 216.24, 11.02),
}


def test_every_preset_is_in_the_profile():
    assert PROFILE.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_flops_are_those_that_open_clip_publishes(name):
    config = PRESETS[name]
    ours = (
        pair_forward_flops(config),
        image_forward_flops(config.image, config.embed_dim),
        text_forward_flops(config.text, config.embed_dim),
    )
    # The file has two decimals: what rounds to them lies within half of the last one.
    assert [x / 1e9 for x in ours] == pytest.approx(PROFILE[name][1:], abs=0.005 + 1e-9)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_that_open_clip_publishes(name):
    """Stacked layers, because one block is described in a tenth of the time of 56."""
    config = dataclasses.replace(PRESETS[name], compute=ComputeConfig(scan_layers=True))
    assert num_params(config) / 1e6 == pytest.approx(PROFILE[name][0], abs=0.005 + 1e-9)


@pytest.mark.parametrize("name", ["ViT-S-32", "ViT-B-16-SigLIP"])
def test_unrolled_layers_have_as_many_parameters_as_stacked_ones(name):
    config = PRESETS[name]
    stacked = dataclasses.replace(config, compute=ComputeConfig(scan_layers=True))
    assert not config.compute.scan_layers
    assert num_params(config) == num_params(stacked)


def test_a_convnet_by_hand():
    """16 pixels, stride 2: 8 x 8 of 4 channels, one block; halved to 4 x 4 of 6 channels, two."""
    config = ConvNetConfig(image_size=16, stem_stride=2, widths=(4, 6), depths=(1, 2))
    stem = 2 * (3 * 3 * 3) * 4 * 64
    first = 2 * (2 * (3 * 3 * 4) * 4 * 64)  # a block is two 3 x 3 convolutions
    halving = 2 * (2 * 2 * 4) * 6 * 16
    second = 2 * 2 * (2 * (3 * 3 * 6) * 6 * 16)
    head = 2 * 6 * 5
    assert image_forward_flops(config, 5) == stem + first + halving + second + head


def test_a_pair_is_its_towers():
    config = DualEncoderConfig()
    assert pair_forward_flops(config) == image_forward_flops(
        config.image, 512
    ) + text_forward_flops(config.text, 512)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("TPU v5", 459e12),
        ("TPU v5 lite", 197e12),  # the longest name that fits counts
        ("TPU v5p", 459e12),
        ("cpu", None),
    ],
)
def test_the_peak_of_a_device_comes_from_its_kind(kind, peak):
    assert peak_flops(kind) == peak
    assert kind == "cpu" or peak in PEAK_FLOPS.values()
