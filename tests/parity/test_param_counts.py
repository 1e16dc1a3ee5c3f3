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
        "coca_ViT-B-32",
        "coca_ViT-L-14",
        "coca_base",
    ],
)
def test_a_preset_has_the_parameters_of_open_clip_to_the_last_one(torch, open_clip, name):
    from clipjax.config import preset
    from clipjax.models import num_params

    settings = dict(open_clip.get_model_config(name))
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    kind = open_clip.CoCa if "multimodal_cfg" in settings else kind
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # initialising what has no numbers
        model = kind(**settings)
    assert num_params(preset(name)) == sum(p.numel() for p in model.parameters())
