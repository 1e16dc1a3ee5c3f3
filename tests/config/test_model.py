import pytest

from clipjax.config import ConvNetConfig, DualEncoderConfig, TextConfig, ViTConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 225}, "patch_size=32 does not divide image_size=225"),
        ({"num_heads": 7}, "num_heads=7 does not divide width=768"),
        ({"width": 66, "num_heads": 1, "positions": "sincos2d"}, "divisible by 4, got 66"),
        *(
            ({name: 0}, f"{name}=0 must be positive")
            for name in ("image_size", "patch_size", "width", "depth", "num_heads", "mlp_dim")
        ),
    ],
)
def test_a_vit_that_cannot_be_built_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": (8,)}, r"widths=\(8,\) and depths=\(1, 1, 1\) differ in length"),
        ({"image_size": 36}, "image_size=36 is not a multiple of 8"),
        ({"widths": (), "depths": ()}, r"widths=\(\) must be positive"),
        ({"widths": (8, 0, 8)}, r"widths=\(8, 0, 8\) must be positive"),
        ({"depths": (1, -1, 1)}, r"depths=\(1, -1, 1\) must not be negative"),
        ({"stem_stride": 0}, "stem_stride=0 must be positive"),
        ({"image_size": 0}, "image_size=0 must be positive"),
    ],
)
def test_a_convnet_that_cannot_be_built_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ConvNetConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_heads": 7}, "num_heads=7 does not divide width=512"),
        *(
            ({name: -1}, f"{name}=-1 must be positive")
            for name in ("vocab_size", "context_length", "width", "depth", "num_heads", "mlp_dim")
        ),
    ],
)
def test_a_text_tower_that_cannot_be_built_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TextConfig(**values)


def test_towers_meet_in_one_space():
    with pytest.raises(ValueError, match=r"needs embed_dim=512 to be image\.width=768"):
        DualEncoderConfig(image=ViTConfig(projection=False))
    DualEncoderConfig(image=ViTConfig(projection=False), embed_dim=768)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"init_logit_scale": 0.0}, r"init_logit_scale=0\.0 must be positive"),
        ({"embed_dim": 0}, "embed_dim=0 must be positive"),
    ],
)
def test_a_model_that_cannot_learn_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DualEncoderConfig(**values)


def test_patches_by_hand():
    assert ViTConfig(image_size=224, patch_size=16).num_patches == 196


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"pad_value": 256}, "pad_value=256"),
        ({"resize_side": 223}, "must not be less than image.image_size=224"),
        ({"resize_side": 256, "resize": "pad"}, "nothing is cut out"),
    ],
)
def test_a_resizing_that_cannot_be_is_refused(fields, found):
    with pytest.raises(ValueError, match=found):
        DualEncoderConfig(**fields)
