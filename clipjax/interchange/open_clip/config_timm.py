"""ConvNeXt and EVA in open_clip's config, which knows them by timm's names."""

import dataclasses
from typing import Any

from clipjax.config import (
    PRESETS,
    ConvNeXtConfig,
    DualEncoderConfig,
    EvaConfig,
    ImageConfig,
    UserError,
)
from clipjax.interchange.open_clip.families import ImageFamily, Model
from clipjax.interchange.open_clip.sections import Section

CONVNEXTS: dict[str, ConvNeXtConfig] = {
    name: image
    for size in ("tiny", "small", "base", "large", "xlarge", "xxlarge")
    if isinstance(image := PRESETS[name := f"convnext_{size}"].image, ConvNeXtConfig)
}
# timm's name: the preset with this tower
_EVA_PRESETS = {
    "eva_giant_patch14_224": "EVA01-g-14",
    "eva02_base_patch16_clip_224": "EVA02-B-16",
    "eva02_large_patch14_clip_224": "EVA02-L-14",
    "eva02_large_patch14_clip_336": "EVA02-L-14-336",
    "eva02_enormous_patch14_clip_224": "EVA02-E-14",
}
EVAS: dict[str, EvaConfig] = {
    name: image
    for name, preset in _EVA_PRESETS.items()
    if isinstance(image := PRESETS[preset].image, EvaConfig)
}


def _read_convnext(section: Section, _: Model) -> ConvNeXtConfig:
    config = CONVNEXTS[section.take("timm_model_name", str, "")]
    section.only(timm_pool=("",), timm_proj_bias=(False,))
    section.ignore("timm_model_pretrained", "timm_drop", "timm_drop_path")
    projections = {"linear": "linear", "mlp": "mlp"}
    return dataclasses.replace(
        config,
        image_size=section.side("image_size", 224),
        projection=section.choose("timm_proj", projections, "linear"),
    )


def _write_convnext(config: DualEncoderConfig) -> dict[str, Any]:
    image = config.image
    assert isinstance(image, ConvNeXtConfig)
    name = _name_of(CONVNEXTS, image, "image_size", "projection")
    return {
        "image_size": image.image_size,
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": image.projection,
    }


def _read_eva(section: Section, _: Model) -> EvaConfig:
    name = section.take("timm_model_name", str, "")
    config = EVAS[name]
    size = section.side("image_size", config.image_size)
    if size != config.image_size:
        raise UserError(
            f"{section.where}.image_size={size}: {name} takes images of {config.image_size} pixels."
        )
    section.only(timm_pool=("token",), timm_proj=(None,), timm_proj_bias=(False,))
    section.ignore("timm_model_pretrained", "timm_drop", "timm_drop_path")
    return dataclasses.replace(config, patch_dropout=section.take("patch_dropout", float, 0.0))


def _write_eva(config: DualEncoderConfig) -> dict[str, Any]:
    image = config.image
    assert isinstance(image, EvaConfig)
    section = {
        "image_size": image.image_size,
        "timm_model_name": _name_of(EVAS, image, "patch_dropout"),
        "timm_model_pretrained": False,
        "timm_pool": "token",
        "timm_proj": None,
    }
    return section | ({"patch_dropout": image.patch_dropout} if image.patch_dropout else {})


def _name_of(known: dict[str, Any], image: ImageConfig, *free: str) -> str:
    """Returns timm's name of a tower, whatever the fields `free` of it are."""
    for name, other in known.items():
        same = dataclasses.replace(other, **{field: getattr(image, field) for field in free})
        if same == image:
            return name
    raise UserError(
        f"open_clip knows towers of model.image.kind={image.kind!r} by timm's names only, and timm "
        f"has none of these sizes: {image}."
    )


CONVNEXT = ImageFamily(
    reads=lambda section: section.peek("timm_model_name") in CONVNEXTS,
    names=tuple(CONVNEXTS),
    read=_read_convnext,
    writes=lambda config: isinstance(config.image, ConvNeXtConfig),
    write=_write_convnext,
)
EVA = ImageFamily(
    reads=lambda section: section.peek("timm_model_name") in EVAS,
    names=tuple(EVAS),
    read=_read_eva,
    writes=lambda config: isinstance(config.image, EvaConfig),
    write=_write_eva,
    custom_text=lambda _: True,
)
