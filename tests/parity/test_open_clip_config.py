"""The presets against the configs that open_clip publishes."""

import dataclasses
import warnings

import pytest

from clipjax.config import PRESETS, EfficientNetConfig
from clipjax.interchange.formats import layout_of
from clipjax.interchange.open_clip.config import from_open_clip, to_open_clip
from clipjax.models import param_shapes

pytestmark = pytest.mark.parity

# ALIGN is no model of open_clip.
NAMES = [name for name, c in PRESETS.items() if not isinstance(c.image, EfficientNetConfig)]


@pytest.mark.parametrize("name", NAMES)
def test_the_published_config_is_the_preset(open_clip, name):
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    published = dict(open_clip.get_model_config(name))
    tags = list_pretrained_tags_by_model(name)
    # Later weights of a name may have been trained with another mean or resizing.
    weights = get_pretrained_cfg(name, tags[0]) if tags else {}
    fields = ("mean", "std", "interpolation", "resize_mode")
    preprocessing = {f: weights[f] for f in fields if f in weights}
    preprocessing |= {f: list(preprocessing[f]) for f in ("mean", "std") if f in preprocessing}
    config, options = from_open_clip(published, preprocessing)
    scale = PRESETS[name].init_logit_scale
    assert dataclasses.replace(config, init_logit_scale=scale) == PRESETS[name]
    # A text tower of Hugging Face always stands under `text.`.
    custom_text = published.get("custom_text") or "hf_model_name" in published["text_cfg"]
    assert options == {"custom_text": bool(custom_text)}


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP2", "vit_medium_patch16_gap_256", "ViT-M-16-alt"])
def test_open_clip_builds_what_is_written(open_clip, torch, name):
    written = to_open_clip(PRESETS[name])["model_cfg"]
    ours = layout_of(
        "open_clip", PRESETS[name], custom_text=bool(written.pop("custom_text", False))
    )
    kind = open_clip.CLIP if "SigLIP" not in name else open_clip.CustomTextCLIP
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = kind(**written).state_dict()
    shapes = param_shapes(PRESETS[name])
    assert {n: tuple(t.shape) for n, t in theirs.items()} == {
        n: entry.their_shape(shapes[entry.ours]) for entry in ours.entries for n in entry.theirs
    }
