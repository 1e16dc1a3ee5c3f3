import dataclasses

from clipjax.config import preset
from clipjax.config.presets_resnet import RESNETS


def test_quick_gelu_is_the_activation_of_the_text_tower_only():
    for name in ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"):
        exact, quick = preset(name), preset(f"{name}-quickgelu")
        assert (exact.text.activation, quick.text.activation) == ("gelu", "quick_gelu")
        text = dataclasses.replace(quick.text, activation="gelu")
        assert dataclasses.replace(quick, text=text) == exact
    assert len(RESNETS) == 10


def test_every_head_is_64_wide():
    for config in RESNETS.values():
        assert 32 * config.image.width == 64 * config.image.num_heads
        assert config.text.width == 64 * config.text.num_heads
