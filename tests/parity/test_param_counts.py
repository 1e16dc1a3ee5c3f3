import warnings

import pytest

from clipjax.config.presets_siglip import SIGLIPS
from clipjax.config.presets_vit import VITS

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    "name",
    [
        *VITS,
        *SIGLIPS,
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
