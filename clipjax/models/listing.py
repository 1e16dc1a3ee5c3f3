"""What every preset is: size, cost and shape, computed from its config."""

import fnmatch
from collections.abc import Iterator
from typing import Any

from clipjax.config import PRESETS, DualEncoderConfig, UsageError, did_you_mean
from clipjax.models.cost import image_forward_flops, pair_forward_flops, text_forward_flops
from clipjax.models.params import num_params, num_tower_params


def list_models(filter: str | None = None) -> list[dict[str, Any]]:
    """Returns a row for each preset, as `clipjax models --json -` prints them.

    Args:
        filter: a pattern of names such as "*SigLIP*", whatever the case; all by default.

    Raises:
        UsageError: if no name matches; it says the nearest one.

    >>> [row["name"] for row in list_models("vit-b-16-siglip-2*")]
    ['ViT-B-16-SigLIP-256']
    """
    return list(rows(filter))


def rows(filter: str | None = None) -> Iterator[dict[str, Any]]:
    """Yields the rows of `list_models` as they are computed."""
    for name in matching(filter):
        yield {"name": name, **describe(PRESETS[name])}


def matching(filter: str | None) -> list[str]:
    """Returns the names of the presets that a pattern matches, in the order of the table.

    Raises:
        UsageError: if there is none.
    """
    if filter is None:
        return list(PRESETS)
    pattern = filter.lower()
    names = [name for name in PRESETS if fnmatch.fnmatchcase(name.lower(), pattern)]
    if not names:
        by_lower = {name.lower(): name for name in PRESETS}
        near = did_you_mean(pattern.strip("*"), by_lower)
        near = next((near.replace(low, name) for low, name in by_lower.items() if low in near), "")
        raise UsageError(
            f"no preset matches {filter!r}.{near} Patterns are those of file names: '*SigLIP*'."
        )
    return names


def describe(config: DualEncoderConfig) -> dict[str, Any]:
    """Returns sizes, parameters and forward FLOPs of a model, all computed from its config.

    Towers that several models share are traced once a process.
    """
    image = num_tower_params(config.image, config.embed_dim)
    text = num_tower_params(config.text, config.embed_dim)
    if config.decoder is None:
        outside = 1 + (config.init_logit_bias is not None)  # logit scale and bias
        params = image + text + outside
    else:
        params = num_params(config)
    return {
        "image_size": config.image.image_size,
        "embed_dim": config.embed_dim,
        "context_length": config.text.context_length,
        "params": params,
        "image_params": image,
        "text_params": text,
        "flops": pair_forward_flops(config),
        "image_flops": image_forward_flops(config),
        "text_flops": text_forward_flops(config),
    }
