import dataclasses

import pytest

from clipjax.config import DualEncoderConfig, UserError, ViTConfig
from clipjax.interchange.requirements import require

CONFIG = DualEncoderConfig()


def test_what_fits_passes():
    require(CONFIG, "form", {"image.pool": "cls", "embed_dim": (256, 512), "decoder": None})


def test_the_field_and_both_values_are_named():
    config = dataclasses.replace(CONFIG, image=ViTConfig(registers=4))
    with pytest.raises(UserError) as raised:
        require(config, "form", {"image.pool": "cls", "image.registers": 0})
    assert "form cannot hold this model: config.image.registers is 4, expected 0" in str(
        raised.value
    )


def test_one_of_several_values():
    with pytest.raises(UserError, match="expected 'map' or 'mean'"):
        require(CONFIG, "form", {"image.pool": ("map", "mean")})
