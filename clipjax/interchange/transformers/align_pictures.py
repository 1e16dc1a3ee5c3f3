"""`preprocessor_config.json` of ALIGN: the settings of transformers' EfficientNetImageProcessor."""

from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig
from clipjax.interchange.transformers.fields import Section
from clipjax.interchange.transformers.preprocessing import FILE

_FILTERS = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers
_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 346, "width": 346},
    "resample": 3,
    "do_center_crop": False,
    "crop_size": {"height": 289, "width": 289},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "include_top": True,
}


def read_pictures(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `DualEncoderConfig` that say how a picture becomes pixels.

    Among them is `image_size`, which belongs to the image tower.

    Raises:
        UserError: if a step is not supported.
    """
    section = Section(FILE, values.get("image_processor", values), _DEFAULTS)
    section.must_be("do_resize", True)
    section.must_be("do_rescale", True)
    if section.get("resample") not in _FILTERS:
        raise section.wrong("resample", " or ".join(f"{n} ({f})" for n, f in _FILTERS.items()))
    side = _side(section, "size")
    cut = _side(section, "crop_size") if section.get("do_center_crop") else side
    if cut > side:
        raise section.wrong("crop_size", f"at most the size, {side}")
    mean, std = _normalisation(section)
    return {
        "image_size": cut,
        "resize": "squash",
        "resize_side": None if cut == side else side,
        "crop_offset": "down",
        "interpolation": _FILTERS[section.get("resample")],
        "pixel_mean": mean,
        "pixel_std": std,
    }


def _side(section: Section, name: str) -> int:
    size = section.get(name)
    sides = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    if type(sides[0]) is not int or sides[0] != sides[1]:
        raise section.wrong(name, "equal height and width")
    return sides[0]


def _normalisation(section: Section) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation of pixels in [0, 1] that do what all steps there do.

    There a byte is multiplied, 1 may be subtracted, mean and deviation may follow, and with
    `include_top` another division by the deviation.
    """
    gain, offset = 255 * section.number("rescale_factor"), float(section.get("rescale_offset"))
    if gain <= 0:
        raise section.wrong("rescale_factor", "a positive number")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if section.get("do_normalize"):
        mean, std = section.colours("image_mean"), section.colours("image_std")
    if min(std) <= 0:
        raise section.wrong("image_std", "positive numbers")
    again = section.colours("image_std") if section.get("include_top") else (1.0, 1.0, 1.0)
    # Rounded: 255 / 127.5 and its like are exact then.
    return (
        tuple(round((offset + m) / gain, 12) for m in mean),
        tuple(round(s * t / gain, 12) for s, t in zip(std, again, strict=True)),
    )


def written_pictures(config: DualEncoderConfig) -> dict[str, Any]:
    """Returns the file of a model whose pictures are squeezed into a square."""
    cut = config.image.image_size
    side = config.resize_side or cut
    filters = {name: number for number, name in _FILTERS.items()}
    halves = (0.5, 0.5, 0.5)
    centred = config.pixel_mean == halves and config.pixel_std == halves
    return {
        "image_processor_type": "EfficientNetImageProcessor",
        "processor_class": "AlignProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": filters[config.interpolation],
        "do_center_crop": side != cut,
        "crop_size": {"height": cut, "width": cut},
        "do_rescale": True,
        # From -1 to 1, as the public weights have it, where that is what is wanted.
        "rescale_factor": 1 / 127.5 if centred else 1 / 255,
        "rescale_offset": centred,
        "do_normalize": not centred,
        "image_mean": list(config.pixel_mean),
        "image_std": list(config.pixel_std),
        "include_top": False,
    }
