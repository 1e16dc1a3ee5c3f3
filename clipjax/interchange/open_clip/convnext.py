"""ConvNeXt of timm, as open_clip's TimmModel holds it."""

from clipjax.config import ConvNeXtConfig, DualEncoderConfig
from clipjax.interchange.layout import Entry, Layout, conv, linear, norm, same
from clipjax.interchange.open_clip.clip import FORMAT


def convnext_layout(config: DualEncoderConfig) -> Layout:
    """Returns the layout of a TimmModel with a ConvNeXt."""
    convnext = config.image
    assert isinstance(convnext, ConvNeXtConfig)
    trunk, head = "visual.trunk", "visual.head"
    entries: list[Entry] = [
        *conv("image/stem", f"{trunk}.stem.0", bias=True),
        *norm("image/stem_norm", f"{trunk}.stem.1"),
        *norm("image/norm", f"{trunk}.head.norm"),
    ]
    for stage, depth in enumerate(convnext.depths):
        ours, theirs = f"image/stages/{stage}", f"{trunk}.stages.{stage}"
        if stage:
            entries += norm(f"{ours}/norm", f"{theirs}.downsample.0")
            entries += conv(f"{ours}/down", f"{theirs}.downsample.1", bias=True)
        for block in range(depth):
            entries += _block(
                f"{ours}/blocks/stack/{block}",
                f"{theirs}.blocks.{block}",
                layer_scale=convnext.layer_scale is not None,
            )
    if convnext.projection == "mlp":
        entries += linear("image/head/fc1", f"{head}.mlp.fc1")
        entries += linear("image/head/fc2", f"{head}.mlp.fc2", bias=False)
    else:
        entries += linear("image/head/fc2", f"{head}.proj", bias=False)
    return Layout(format=FORMAT, entries=tuple(entries))


def _block(ours: str, theirs: str, *, layer_scale: bool) -> list[Entry]:
    return [
        *conv(f"{ours}/conv", f"{theirs}.conv_dw", bias=True),
        *norm(f"{ours}/norm", f"{theirs}.norm"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
        *([same(f"{ours}/scale/gain", f"{theirs}.gamma")] if layer_scale else []),
    ]
