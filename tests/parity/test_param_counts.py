import warnings

import pytest

from clipjax.config.presets_coca import COCA
from clipjax.config.presets_convnext import CONVNEXTS
from clipjax.config.presets_eva import EVA
from clipjax.config.presets_resnet import RESNETS
from clipjax.config.presets_siglip import SIGLIPS
from clipjax.config.presets_vit import VITS

pytestmark = pytest.mark.parity


NAMES = [*VITS, *SIGLIPS, *RESNETS, *CONVNEXTS, *EVA]
NAMES += [name for name in COCA if "roberta" not in name]  # that one: test_open_clip_coca.py


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_has_the_parameters_of_open_clip_to_the_last_one(torch, open_clip, name):
    from clipjax.config import preset
    from clipjax.models import num_params

    model = without_numbers(torch, open_clip, name)
    assert num_params(preset(name)) == sum(p.numel() for p in model.parameters())


def without_numbers(torch, open_clip, name):
    settings = dict(open_clip.get_model_config(name))
    kind = open_clip.CustomTextCLIP if settings.pop("custom_text", False) else open_clip.CLIP
    kind = open_clip.CoCa if "multimodal_cfg" in settings else kind
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # initialising what has no numbers
        return kind(**settings)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("RN", "convnext"))])
def test_every_norm_of_an_image_tower_has_the_epsilon_of_open_clip(torch, open_clip, name):
    """And batch norm the momentum; the small references cannot tell 1e-6 from 1e-5."""
    from clipjax.config import ResNetConfig, preset

    image = preset(name).image
    modules = list(without_numbers(torch, open_clip, name).visual.modules())
    if isinstance(image, ResNetConfig):
        norms = [m for m in modules if isinstance(m, torch.nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {image.batch_norm_momentum}
        eps = image.batch_norm_eps
    else:
        norms, eps = [m for m in modules if isinstance(m, torch.nn.LayerNorm)], image.norm_eps
    assert len(norms) > sum(image.depths)
    assert {norm.eps for norm in norms} == {eps}
