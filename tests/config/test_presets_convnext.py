import re

from clipjax.config.presets_convnext import CONVNEXTS


def test_the_name_says_size_image_size_and_head():
    for name, config in CONVNEXTS.items():
        size = re.search(r"_(\d+)$", name)
        base = 256 if re.search("_(w|d|xlarge|xxlarge)$", name) else 224
        assert config.image.image_size == (int(size[1]) if size else base)
        assert (config.image.projection == "mlp") == ("_d" in name)
        assert (config.image.norm_eps == 1e-5) == ("xxlarge" in name)


def test_every_stage_doubles_the_width():
    for config in CONVNEXTS.values():
        widths = config.image.widths
        assert [width // widths[0] for width in widths] == [1, 2, 4, 8]
