"""timm's Vision Transformers in open_clip's config, which knows them by their names."""

import dataclasses
from typing import Any

from clipjax.config import DualEncoderConfig, UserError, ViTConfig
from clipjax.config.presets_siglip import siglip_vit
from clipjax.config.presets_vit import VITS
from clipjax.config.vit_shapes import vit_of
from clipjax.interchange.open_clip.families import ImageFamily, Model
from clipjax.interchange.open_clip.sections import Section
from clipjax.interchange.open_clip.timm_vit import is_timm

# timm's word for a shape, and patch size: image sizes
_SIGLIP_SIZES = {
    ("base", "B", 32): (256,),
    ("base", "B", 16): (224, 256, 384, 512),
    ("large", "L", 16): (256, 384, 512),
    ("so400m", "So400m", 14): (224, 378, 384),
    ("so400m", "So400m", 16): (256, 384, 512),
    ("giantopt", "g-opt", 16): (256, 384),
}
_CLIP_SIZES = {
    ("medium", "M", 32): (224,),
    ("medium", "M", 16): (224,),
    ("base", "B", 32): (224, 256, 384, 448),
    ("base", "B", 16): (224, 384),
    ("large", "L", 14): (224, 336),
    ("huge", "H", 14): (224, 336, 378),
    ("giant", "g", 14): (224,),
    ("gigantic", "G", 14): (224, 378),
}


def _vit_of_preset(name: str) -> ViTConfig:
    image = VITS[name].image
    assert isinstance(image, ViTConfig)
    return image


TIMM_VITS: dict[str, ViTConfig] = {
    **{
        f"vit_{word}_patch{patch}_siglip_{size}": dataclasses.replace(
            siglip_vit(shape, patch, size), projection=True
        )
        for (word, shape, patch), sizes in _SIGLIP_SIZES.items()
        for size in sizes
    },
    **{
        f"vit_{word}_patch{patch}_clip_{size}": vit_of(shape, patch_size=patch, image_size=size)
        for (word, shape, patch), sizes in _CLIP_SIZES.items()
        for size in sizes
    },
    "vit_medium_patch16_gap_256": _vit_of_preset("vit_medium_patch16_gap_256"),
}
"""The towers by timm's names, with a projection to be chosen by `timm_proj`."""

_POOLS = {"cls": "token", "mean": "avg", "map": "map"}
# timm_proj: whether there is a projection, and whether it has a bias (timm's classifier)
_PROJECTIONS = {
    "none": (False, False),
    None: (True, True),
    "": (True, True),
    "linear": (True, False),
}


def _reads(section: Section) -> bool:
    return section.peek("timm_model_name") in TIMM_VITS


def _read(section: Section, _: Model) -> ViTConfig:
    name = section.take("timm_model_name", str, "")
    vit = TIMM_VITS[name]
    size = section.side("image_size", vit.image_size)
    if size != vit.image_size:
        raise UserError(
            f"{section.where}.image_size={size}: {name} takes images of {vit.image_size} pixels."
        )
    projection, bias = section.choose("timm_proj", _PROJECTIONS, "linear")
    # Without a name timm's own pooling stays, but only where open_clip adds the projection.
    pools = {_POOLS[vit.pool]: None} | ({"": None} if section.peek("timm_proj") == "linear" else {})
    section.choose("timm_pool", pools, "avg")
    section.only(timm_proj_bias=(False,))
    section.ignore("timm_model_pretrained", "timm_drop", "timm_drop_path")
    vit = dataclasses.replace(
        vit,
        projection=projection,
        projection_bias=bias,
        patch_dropout=section.take("patch_dropout", float, 0.0),
    )
    if not is_timm(vit):
        raise UserError(
            f"{section.where}.timm_proj='linear' is not supported for {name}: such a tower is read "
            "in the names of open_clip's own Vision Transformer."
        )
    return vit


def _write(config: DualEncoderConfig) -> dict[str, Any]:
    vit = config.image
    assert isinstance(vit, ViTConfig)
    bare = dataclasses.replace(vit, projection=True, projection_bias=False, patch_dropout=0.0)
    name = next((name for name, known in TIMM_VITS.items() if known == bare), None)
    if name is None:
        raise UserError(
            "open_clip knows Vision Transformers like this one by timm's names only, and timm has "
            f"none of these sizes: {bare}."
        )
    section = {
        "image_size": vit.image_size,
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": _POOLS[vit.pool],
        "timm_proj": next(
            proj
            for proj, meaning in _PROJECTIONS.items()
            if meaning == (vit.projection, vit.projection_bias)
        ),
    }
    return section | ({"patch_dropout": vit.patch_dropout} if vit.patch_dropout else {})


FAMILY = ImageFamily(
    reads=_reads,
    names=tuple(TIMM_VITS),
    read=_read,
    writes=lambda config: isinstance(config.image, ViTConfig) and is_timm(config.image),
    write=_write,
    custom_text=lambda config: isinstance(config.image, ViTConfig) and config.image.pool == "map",
)
