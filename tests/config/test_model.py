import pytest

from clipjax.config import (
    CappaDecoderConfig,
    CocaDecoderConfig,
    ConvNetConfig,
    DualEncoderConfig,
    ModernTextConfig,
    TextConfig,
    ViTConfig,
)


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


def test_the_pooler_of_coca_has_the_width_of_the_shared_space():
    image = ViTConfig(pool="coca", projection=False)
    config = DualEncoderConfig(image=image, embed_dim=512)
    assert config.image_token_width == 512
    assert DualEncoderConfig().image_token_width == 768
    with pytest.raises(ValueError, match=r"pooler_heads=8 does not divide embed_dim=500"):
        DualEncoderConfig(image=image, embed_dim=500)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"image": ConvNetConfig(), "decoder": CocaDecoderConfig()},
            r"'coca' reads the tokens of an image\.kind='vit', not of 'convnet'",
        ),
        ({"decoder": CocaDecoderConfig(width=256)}, r"width=256 must be text\.width=512"),
        ({"decoder": CocaDecoderConfig()}, "must be the width of the image tokens, 768"),
        (
            {"text": ModernTextConfig(), "decoder": CocaDecoderConfig()},
            "'transformer' or 'bert', not of 'modern'",
        ),
        (
            {"decoder": CappaDecoderConfig()},
            r"decoder\.vocab_size=32000 must be text\.vocab_size=49408: both take the same tokens",
        ),
        (
            {"decoder": CappaDecoderConfig(vocab_size=49408)},
            r"decoder\.context_length=64 must be text\.context_length=77",
        ),
    ],
)
def test_a_decoder_that_does_not_fit_its_towers_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DualEncoderConfig(**values)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (CocaDecoderConfig, {"num_heads": 7}, "num_heads=7 does not divide width=512"),
        (CocaDecoderConfig, {"vocab_size": 0}, "vocab_size=0 must be positive"),
        (CocaDecoderConfig, {"depth": 0}, "depth=0 must be positive"),
        (CappaDecoderConfig, {"parallel_share": 1.5}, r"parallel_share=1\.5 must be in \[0, 1\]"),
        (CappaDecoderConfig, {"start_id": 32000}, "start_id=32000 must be an id below"),
        (CappaDecoderConfig, {"num_heads": 7}, "num_heads=7 does not divide width=768"),
    ],
)
def test_a_decoder_that_cannot_be_built_is_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


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
