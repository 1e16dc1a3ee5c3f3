"""The formats by name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from clipjax.config import DualEncoderConfig, UserError, did_you_mean
from clipjax.interchange import big_vision, big_vision_cappa, open_clip, openai, transformers
from clipjax.interchange.layout import Layout, Shape
from clipjax.interchange.open_clip.config import from_open_clip, to_open_clip

LAYOUTS: dict[str, Callable[..., Layout]] = {
    "big_vision": big_vision.layout,
    "big_vision_cappa": big_vision_cappa.layout,
    "open_clip": open_clip.layout,
    "openai": openai.layout,
    "transformers": transformers.layout,
}

Options = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """What a folder of one codebase looks like; its layout is in `LAYOUTS` under the same name.

    Attributes:
        config_file: whose presence tells the folder; empty for a format without.
        weights: names of the file of weights, the likeliest first; the first one is written.
        read_config: from the JSON objects of the folder by name to our config and the options of
            the layout.
        write_config: from our config to the JSON objects of a folder by name.
        variants: options of the layout that a file without its folder is tried with.
        from_shapes: the config of a model and the options of its layout from the shapes of its
            tensors, where these say it all; UserError for tensors of another format.
        metadata: of the header of a safetensors file.
    """

    config_file: str = ""
    weights: tuple[str, ...]
    read_config: Callable[[Mapping[str, Any]], tuple[DualEncoderConfig, Options]] | None = None
    write_config: Callable[[DualEncoderConfig], dict[str, Any]] | None = None
    variants: tuple[Options, ...] = ({},)
    from_shapes: Callable[[Mapping[str, Shape]], tuple[DualEncoderConfig, Options]] | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"format": "pt"})


def _read_open_clip(files: Mapping[str, Any]) -> tuple[DualEncoderConfig, Options]:
    found = files[_OPEN_CLIP]
    if not isinstance(found, Mapping) or not isinstance(found.get("model_cfg"), Mapping):
        raise UserError(f"{_OPEN_CLIP}: no model_cfg in it.")
    return from_open_clip(found["model_cfg"], found.get("preprocess_cfg"))


def _write_open_clip(config: DualEncoderConfig) -> dict[str, Any]:
    # The one way to cut that open_clip has; who writes compares what the files say.
    return {_OPEN_CLIP: to_open_clip(dataclasses.replace(config, crop_offset="nearest"))}


def _read_transformers(files: Mapping[str, Any]) -> tuple[DualEncoderConfig, Options]:
    return transformers.from_transformers(files[_TRANSFORMERS], files.get(_PREPROCESSOR))


def _read_openai(shapes: Mapping[str, Shape]) -> tuple[DualEncoderConfig, Options]:
    if not openai.is_marked(shapes):
        # A model of open_clip with another GELU has the same shapes.
        raise UserError("no tensors of OpenAI's CLIP.")
    return openai.config_from_shapes(shapes), {}


_OPEN_CLIP, _TRANSFORMERS = "open_clip_config.json", "config.json"
_PREPROCESSOR = "preprocessor_config.json"

# A folder with the files of several formats is of the first one that is listed here.
FORMATS: dict[str, Format] = {
    "open_clip": Format(
        config_file=_OPEN_CLIP,
        weights=("open_clip_model.safetensors", "model.safetensors"),
        read_config=_read_open_clip,
        write_config=_write_open_clip,
        variants=({"custom_text": False}, {"custom_text": True}),
    ),
    "transformers": Format(
        config_file=_TRANSFORMERS,
        weights=("model.safetensors",),
        read_config=_read_transformers,
        write_config=transformers.to_transformers,
        variants=tuple({"model_type": name} for name in transformers.FAMILIES),
    ),
    "big_vision": Format(
        weights=("model.npz",),
        variants=tuple(
            {"prefix": prefix, "scanned": scanned, "naflex": naflex}
            for prefix in ("params/", "")
            for scanned in (False, True)
            for naflex in (False, True)
        ),
        from_shapes=lambda shapes: (big_vision.config_of(shapes), big_vision.options_of(shapes)),
    ),
    "big_vision_cappa": Format(
        weights=("model.npz",), variants=({"prefix": "params/"}, {"prefix": ""})
    ),
    "openai": Format(
        weights=("model.safetensors",),
        from_shapes=_read_openai,
    ),
}


def layout_of(name: str, config: DualEncoderConfig, **options: Any) -> Layout:
    """Returns where a format keeps the parameters of a model.

    Args:
        name: of the format.
        config: of the model.
        options: of the format, such as `custom_text`.
    """
    return LAYOUTS[name](config, **options)


def format_of(name: str) -> Format:
    """Returns a format.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in FORMATS:
        raise UserError(
            f"no format named {name!r}.{did_you_mean(name, FORMATS)} There are: "
            f"{', '.join(FORMATS)}."
        )
    return FORMATS[name]
