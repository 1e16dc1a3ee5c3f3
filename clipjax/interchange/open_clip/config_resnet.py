"""CLIP's ResNets in open_clip's config: `layers` of `vision_cfg` is a list."""

from typing import Any

from clipjax.config import DualEncoderConfig, ResNetConfig, UserError
from clipjax.interchange.open_clip.families import ImageFamily, Model
from clipjax.interchange.open_clip.sections import Section


def _read(section: Section, _: Model) -> ResNetConfig:
    depths, width = section.take("layers", list, []), section.take("width", int, 64)
    head_width = section.take("head_width", int, 64)
    if head_width < 1 or 32 * width % head_width:
        raise UserError(f"{section.where}.head_width={head_width} does not divide {32 * width}.")
    section.ignore("patch_size", "output_tokens")
    section.only(timm_model_name=(None,))
    try:
        return ResNetConfig(
            image_size=section.side("image_size", 224),
            depths=tuple(int(depth) for depth in depths),
            width=width,
            num_heads=32 * width // head_width,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{section.where}.layers={depths!r}: {error}.") from error


def _write(config: DualEncoderConfig) -> dict[str, Any]:
    image = config.image
    assert isinstance(image, ResNetConfig)
    return {
        "image_size": image.image_size,
        "layers": list(image.depths),
        "width": image.width,
        "head_width": 32 * image.width // image.num_heads,
        "patch_size": None,
    }


FAMILY = ImageFamily(
    reads=lambda section: isinstance(section.peek("layers"), list),
    read=_read,
    writes=lambda config: isinstance(config.image, ResNetConfig),
    write=_write,
)
