import dataclasses

import pytest

from clipjax.config import PRESETS, UsageError, ViTConfig, preset
from clipjax.config.vit_shapes import VIT_SHAPES, vit_of


def test_a_preset_is_found_by_its_name():
    assert preset("ViT-L-14").image.width == 1024
    assert all(preset(name) is config for name, config in PRESETS.items())


def test_a_misspelt_preset_gets_the_nearest_name_and_all_of_them():
    with pytest.raises(
        UsageError, match=r"'ViT-B32'\. Did you mean 'ViT-B-32'\? Known: .*ViT-e-14"
    ):
        preset("ViT-B32")


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("ViT-")])
def test_the_name_says_the_patch_and_the_image_size(name):
    config = PRESETS[name]
    _, _, patch, *rest = name.split("-")
    sizes = [int(part) for part in rest if part.isdigit()]
    assert config.image.patch_size == int(patch)
    assert config.image.image_size == (sizes[-1] if sizes else 224)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-quickgelu")])
def test_quickgelu_is_the_only_difference_that_a_name_announces(name):
    quick, plain = PRESETS[name], PRESETS[name.removesuffix("-quickgelu")]
    assert quick.text.activation == "quick_gelu"
    assert dataclasses.replace(quick.text, activation="gelu") == plain.text
    if isinstance(quick.image, ViTConfig):
        assert quick.image.activation == "quick_gelu"
        assert dataclasses.replace(quick.image, activation="gelu") == plain.image


def test_a_shape_has_heads_of_one_width_and_what_is_published():
    assert {"Ti", "S", "M", "B", "L", "So400m", "H", "g", "g-opt", "G", "G-opt", "e"} <= set(
        VIT_SHAPES
    )
    for name, shape in VIT_SHAPES.items():
        assert shape.width % shape.num_heads == 0, name
        # Four times the width but where the papers say otherwise.
        odd = {"So400m": 4304, "g": 6144, "G": 8192, "G-opt": 8192, "e": 15360}
        assert shape.mlp_dim == odd.get(name, 4 * shape.width), name
    assert vit_of("So400m", patch_size=14, pool="map").num_patches == 256
