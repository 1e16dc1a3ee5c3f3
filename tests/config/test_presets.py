import pytest

from clipjax.config import PRESETS, UsageError, preset


def test_a_preset_is_found_by_its_name():
    assert preset("ViT-L-14").image.width == 1024
    assert all(preset(name) is config for name, config in PRESETS.items())


def test_a_misspelt_preset_gets_the_nearest_name_and_all_of_them():
    with pytest.raises(
        UsageError, match=r"'ViT-B32'\. Did you mean 'ViT-B-32'\? Known: .*ViT-e-14"
    ):
        preset("ViT-B32")


def test_the_name_says_the_patch_and_the_image_size():
    for name, config in PRESETS.items():
        if not name.startswith("ViT-"):
            continue
        _, _, patch, *rest = name.split("-")
        assert config.image.patch_size == int(patch)
        assert config.image.image_size == int(rest[-1] if rest and rest[-1].isdigit() else 224)
