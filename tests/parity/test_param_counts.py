import warnings

import pytest

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    "name",
    [
        "ViT-S-32",
        "ViT-B-32",
        "ViT-B-16",
        "ViT-B-16-plus-240",
        "ViT-L-14",
        "ViT-H-14",
        "ViT-B-16-SigLIP",
        "RN50",
        "RN101",
        "RN50x4",
        "RN50x16",
        "RN50x64",
        *(f"RN{size}-quickgelu" for size in ("50", "101", "50x4", "50x16", "50x64")),
        "convnext_tiny",
        "convnext_small",
        "convnext_base",
        "convnext_base_w",
        "convnext_base_w_320",
        "convnext_large",
        "convnext_large_d",
        "convnext_large_d_320",
        "convnext_xlarge",
        "convnext_xxlarge",
        "convnext_xxlarge_320",
    ],
)
def test_a_preset_has_the_parameters_of_open_clip_to_the_last_one(torch, open_clip, name):
    from clipjax.config import preset
    from clipjax.models import num_params

    settings = dict(open_clip.get_model_config(name))
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # initialising what has no numbers
        model = kind(**settings)
    assert num_params(preset(name)) == sum(p.numel() for p in model.parameters())
