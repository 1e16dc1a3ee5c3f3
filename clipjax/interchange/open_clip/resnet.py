"""open_clip's ModifiedResNet, which has the names of OpenAI's."""

import numpy as np

from clipjax.config import DualEncoderConfig, ResNetConfig
from clipjax.interchange.layout import (
    Entry,
    Layout,
    batch_norm,
    conv,
    linear,
    same,
    stacked_linear,
)
from clipjax.interchange.open_clip.clip import FORMAT

_COUNT = "num_batches_tracked"


def resnet_layout(config: DualEncoderConfig) -> Layout:
    """Returns the layout of a ModifiedResNet.

    How many batches its statistics have seen is written as 0 and not read: nothing depends on it.
    """
    resnet = config.image
    assert isinstance(resnet, ResNetConfig)
    entries = [
        *_convolutions("image/stem/{}", "image/stem_norms/{}", "visual", first=0),
        *_attention_pool("image/pool", "visual.attnpool"),
    ]
    for stage, depth in enumerate(resnet.depths):
        for block in range(depth):
            ours = f"image/stages/{stage}/" + (f"blocks/stack/{block - 1}" if block else "first")
            theirs = f"visual.layer{stage + 1}.{block}"
            entries += _convolutions(f"{ours}/conv_{{}}", f"{ours}/norm_{{}}", theirs, first=1)
            if not block:
                entries += conv(f"{ours}/shortcut", f"{theirs}.downsample.0")
                entries += batch_norm(f"{ours}/shortcut_norm", f"{theirs}.downsample.1")
    suffix = ".running_mean"
    counts = {
        entry.theirs[0].removesuffix(suffix) + f".{_COUNT}": np.zeros((), np.int64)
        for entry in entries
        if entry.theirs[0].endswith(suffix)
    }
    return Layout(format=FORMAT, entries=tuple(entries), fixed=counts)


def _convolutions(conv_name: str, norm_name: str, theirs: str, *, first: int) -> list[Entry]:
    """Returns the entries of three convolutions with a batch norm each, counted from `first`."""
    entries: list[Entry] = []
    for i in range(3):
        entries += conv(conv_name.format(first + i), f"{theirs}.conv{i + 1}")
        entries += batch_norm(norm_name.format(first + i), f"{theirs}.bn{i + 1}")
    return entries


def _attention_pool(ours: str, theirs: str) -> list[Entry]:
    return [
        same(f"{ours}/positions", f"{theirs}.positional_embedding"),
        *linear(f"{ours}/query", f"{theirs}.q_proj"),
        *stacked_linear(f"{ours}/key_value", (f"{theirs}.k_proj", f"{theirs}.v_proj")),
        *linear(f"{ours}/out", f"{theirs}.c_proj", input_axes=2),
    ]
