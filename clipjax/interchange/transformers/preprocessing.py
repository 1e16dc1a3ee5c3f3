"""`preprocessor_config.json`: how transformers turns a picture into pixels."""

from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig
from clipjax.interchange.transformers.fields import Section

FILE = "preprocessor_config.json"
_PILLOW: dict[int, str] = {2: "bilinear", 3: "bicubic"}  # numbers of Pillow's filters
_RESCALE = 1 / 255


def read_square(
    values: Mapping[str, Any] | None, defaults: Mapping[str, Any], image_size: int
) -> dict[str, Any]:
    """Returns the fields of a `DualEncoderConfig` that say how a picture becomes a square.

    Args:
        values: of the file; None where there is none, which means the defaults at the size of the
            model.
        defaults: of the image processor of transformers.
        image_size: of the model.

    Raises:
        UserError: if a step is not supported, or the size is another one than the model's.
    """
    section = _section(_of_size(defaults, image_size) if values is None else values, defaults)
    return {**_common(section), **_resize(section, image_size)}


def _of_size(defaults: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    sizes = {name: defaults[name] for name in ("size", "crop_size") if name in defaults}
    return {name: dict.fromkeys(size, image_size) for name, size in sizes.items()}


def _section(values: Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> Section:
    inner = (values or {}).get("image_processor", values)  # as processor_config.json holds it
    return Section(FILE, inner, defaults)


def _common(section: Section) -> dict[str, Any]:
    section.must_be("do_resize", True)
    section.must_be("do_rescale", True)
    section.must_be("do_normalize", True)
    if abs(section.number("rescale_factor") - _RESCALE) > 1e-7:
        raise section.wrong("rescale_factor", "1 / 255")
    resample = section.get("resample")
    if resample not in _PILLOW:
        raise section.wrong("resample", " or ".join(f"{n} ({f})" for n, f in _PILLOW.items()))
    return {
        "pixel_mean": section.colours("image_mean"),
        "pixel_std": section.colours("image_std"),
        "interpolation": _PILLOW[resample],
    }


def _resize(section: Section, image_size: int) -> dict[str, Any]:
    size, edge = _size(section)
    wanted = f"the image_size of the model, {image_size}"
    if not section.get("do_center_crop"):
        if edge or size != image_size:
            raise section.wrong("size", f"a height and a width, both {wanted}")
        return {"resize": "squash"}
    if _square(section.get("crop_size")) != image_size:
        raise section.wrong("crop_size", f"{wanted}, for height and width")
    if size < image_size:
        raise section.wrong("size", f"at least {wanted}")
    return {
        "resize": "crop" if edge else "squash",
        "resize_side": None if size == image_size else size,
        # Where half a pixel is left over transformers rounds down. Of a square nothing is left.
        "crop_offset": "down" if edge or size != image_size else "nearest",
    }


def _size(section: Section) -> tuple[int, bool]:
    """Returns what sides are resized to, and whether it is only the shortest."""
    size = section.get("size")
    edge = size if type(size) is int else isinstance(size, Mapping) and size.get("shortest_edge")
    if type(edge) is int and not (isinstance(size, Mapping) and set(size) != {"shortest_edge"}):
        return edge, True
    square = _square(size)
    if square is None:
        raise section.wrong("size", "a shortest_edge, or equal height and width")
    return square, False


def _square(size: Any) -> int | None:
    if type(size) is int:
        return size
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        sides = {size["height"], size["width"]}
        return size["height"] if len(sides) == 1 and type(size["height"]) is int else None
    return None


def write_square(config: DualEncoderConfig, family: str) -> dict[str, Any]:
    """Returns the file of a model that takes squares.

    Args:
        config: of the model.
        family: how transformers begins the names of the classes, such as "CLIP".
    """
    cut = config.image.image_size
    size, crop = config.resize_side or cut, config.resize == "crop"
    middle = {"do_center_crop": True, "crop_size": {"height": cut, "width": cut}}
    return {
        **_written(config, family),
        "size": {"shortest_edge": size} if crop else {"height": size, "width": size},
        **(middle if crop or size != cut else {"do_center_crop": False}),
    }


def read_patches(
    values: Mapping[str, Any] | None, defaults: Mapping[str, Any], patch_size: int
) -> dict[str, Any]:
    """Returns the fields of a `DualEncoderConfig` for a model that takes patches (NaFlex).

    A picture keeps its aspect there; where a square is wanted, the whole is squeezed.

    Raises:
        UserError: if a step is not supported, or the patches are others than the model's.
    """
    section = _section(values, defaults)
    if values is not None and section.side("patch_size") != patch_size:
        raise section.wrong("patch_size", f"{patch_size}, the patch_size of the model")
    return {**_common(section), "resize": "squash"}


def write_patches(
    config: DualEncoderConfig, family: str, patch_size: int, most: int
) -> dict[str, Any]:
    """Returns the file of a model that takes patches.

    Args:
        config: of the model.
        family: how transformers begins the names of the classes.
        patch_size: of the model.
        most: patches that an image is resized to.
    """
    return {**_written(config, family), "patch_size": patch_size, "max_num_patches": most}


def _written(config: DualEncoderConfig, family: str) -> dict[str, Any]:
    filters = {name: number for number, name in _PILLOW.items()}
    return {
        "image_processor_type": f"{family}ImageProcessor",
        "processor_class": f"{family}Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": filters[config.interpolation],
        "do_rescale": True,
        "rescale_factor": _RESCALE,
        "do_normalize": True,
        "image_mean": list(config.pixel_mean),
        "image_std": list(config.pixel_std),
    }
