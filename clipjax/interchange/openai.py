"""OpenAI's CLIP: the names of open_clip, half precision, and three whole numbers besides.

Heads have 64 channels and activations are quick_gelu in all published models; neither is in a file.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

from clipjax.config import DualEncoderConfig, ResNetConfig, TextConfig, UserError, ViTConfig
from clipjax.config.image_towers import ImageConfig
from clipjax.interchange import open_clip
from clipjax.interchange.layout import Layout, Shape
from clipjax.interchange.requirements import require

FORMAT = "openai"

_HEAD = 64
# Sizes of the image and of the text that the model was trained with, and of the vocabulary.
_NUMBERS = ("input_resolution", "context_length", "vocab_size")


def layout(config: DualEncoderConfig) -> Layout:
    """Returns where OpenAI's files keep the parameters of a model.

    Raises:
        UserError: if the model is none of OpenAI's kind.
    """
    require(
        config, FORMAT, {"image.kind": ("vit", "resnet"), "init_logit_bias": None, "decoder": None}
    )
    require(config, FORMAT, {"text.kind": "transformer", "text.pool": "eot"})
    towers = ("image", "text") if isinstance(config.image, ViTConfig) else ("text",)
    require(config, FORMAT, {f"{tower}.activation": "quick_gelu" for tower in towers})
    theirs = open_clip.layout(config, custom_text=False)
    return dataclasses.replace(theirs, format=FORMAT, ignored=(*theirs.ignored, *_NUMBERS))


def config_from_shapes(shapes: Mapping[str, Shape]) -> DualEncoderConfig:
    """Returns the config of the model in a file.

    Args:
        shapes: of its tensors by name.

    Raises:
        UserError: if they are not those of one of OpenAI's models.
    """
    try:
        width = shapes["ln_final.weight"][0]
        text = TextConfig(
            vocab_size=shapes["token_embedding.weight"][0],
            context_length=shapes["positional_embedding"][0],
            width=width,
            depth=_count(shapes, "transformer.resblocks."),
            num_heads=width // _HEAD,
            mlp_dim=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
            activation="quick_gelu",
        )
        image = _vit(shapes) if "visual.proj" in shapes else _resnet(shapes)
        return DualEncoderConfig(image=image, text=text, embed_dim=shapes["text_projection"][1])
    except KeyError as error:
        raise _other(f"{error.args[0]} is missing") from error
    except (IndexError, ValueError) as error:
        raise _other(str(error)) from error


def is_marked(shapes: Mapping[str, Shape]) -> bool:
    """Returns whether a file says that it is OpenAI's; open_clip's have the same names without."""
    return shapes.keys() >= set(_NUMBERS)


def _other(problem: str) -> UserError:
    return UserError(
        f"these are not the tensors of OpenAI's CLIP: {problem}. Name the preset of the model "
        "(--config) if it is another one."
    )


def _vit(shapes: Mapping[str, Shape]) -> ImageConfig:
    width, _, patch, _ = shapes["visual.conv1.weight"]
    return ViTConfig(
        image_size=patch * _grid(shapes["visual.positional_embedding"][0]),
        patch_size=patch,
        width=width,
        depth=_count(shapes, "visual.transformer.resblocks."),
        num_heads=width // _HEAD,
        mlp_dim=shapes["visual.transformer.resblocks.0.mlp.c_fc.weight"][0],
        activation="quick_gelu",
    )


def _resnet(shapes: Mapping[str, Shape]) -> ImageConfig:
    places, width = shapes["visual.attnpool.positional_embedding"]
    return ResNetConfig(
        image_size=32 * _grid(places),
        depths=tuple(_count(shapes, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)),
        width=shapes["visual.layer1.0.conv1.weight"][0],
        num_heads=width // _HEAD,
    )


def _grid(places: int) -> int:
    """Returns the side of a grid that has one place more for the class token or the mean."""
    side = math.isqrt(max(places - 1, 0))
    if side**2 + 1 != places:
        raise ValueError(f"{places} positions are not one more than a square number")
    return side


def _count(names: Iterable[str], prefix: str) -> int:
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    return len({match[1] for name in names if (match := pattern.match(name))})
