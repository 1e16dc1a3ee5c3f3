"""timm's Eva below open_clip's `visual.trunk`."""

from clipjax.config import DualEncoderConfig, EvaConfig
from clipjax.interchange.layout import (
    Entry,
    Layout,
    conv,
    linear,
    norm,
    same,
    stacked_linear,
)
from clipjax.interchange.open_clip.clip import FORMAT


def attention(ours: str, theirs: str, eva: EvaConfig) -> tuple[Entry, ...]:
    """Returns the entries of an EvaAttention."""
    kernel, biases = f"{ours}/qkv/kernel", f"{ours}/qv_bias"
    if eva.fused_qkv:
        qkv = Entry(ours=kernel, theirs=(f"{theirs}.qkv.weight",), kind="linear")
        names = (f"{theirs}.q_bias", f"{theirs}.v_bias")
    else:
        apart = tuple(f"{theirs}.{part}_proj.weight" for part in "qkv")
        qkv = Entry(ours=kernel, theirs=apart, kind="linear", stack_axis=1)
        names = (f"{theirs}.q_proj.bias", f"{theirs}.v_proj.bias")
    return (
        qkv,
        Entry(ours=biases, theirs=names, kind="bias", stack_axis=0),
        *(norm(f"{ours}/norm", f"{theirs}.norm") if eva.attention_norm else ()),
        *linear(f"{ours}/out", f"{theirs}.proj", input_axes=2),
    )


def mlp(ours: str, theirs: str, eva: EvaConfig) -> tuple[Entry, ...]:
    """Returns the entries of an Mlp, a GluMlp or a SwiGLU: only the last stands in two parts."""
    if eva.swiglu and eva.mlp_norm:
        fc1 = stacked_linear(f"{ours}/fc1", (f"{theirs}.fc1_g", f"{theirs}.fc1_x"))
    else:
        fc1 = linear(f"{ours}/fc1", f"{theirs}.fc1")
    return (
        *fc1,
        *(norm(f"{ours}/norm", f"{theirs}.norm") if eva.mlp_norm else ()),
        *linear(f"{ours}/fc2", f"{theirs}.fc2"),
    )


def eva_layout(config: DualEncoderConfig) -> Layout:
    """Returns the layout of an Eva with its classifier as the projection."""
    eva = config.image
    assert isinstance(eva, EvaConfig)
    trunk = "visual.trunk"
    entries: list[Entry] = [
        *conv("image/patchify", f"{trunk}.patch_embed.proj", bias=True),
        same("image/class_token", f"{trunk}.cls_token", (1, 1, eva.width)),
        same("image/positions", f"{trunk}.pos_embed", (1, 1 + eva.num_patches, eva.width)),
        *norm("image/norm", f"{trunk}.{'norm' if eva.pool == 'cls' else 'fc_norm'}"),
        *linear("image/project", f"{trunk}.head"),
    ]
    for layer in range(eva.depth):
        ours, theirs = f"image/blocks/stack/{layer}", f"{trunk}.blocks.{layer}"
        entries += norm(f"{ours}/norm1", f"{theirs}.norm1")
        entries += attention(f"{ours}/attn", f"{theirs}.attn", eva)
        entries += norm(f"{ours}/norm2", f"{theirs}.norm2")
        entries += mlp(f"{ours}/mlp", f"{theirs}.mlp", eva)
    # Turns of the rotary positions and the zero bias of keys: some versions of timm save them.
    ignored = (f"{trunk}.rope.*", f"{trunk}.blocks.*.attn.k_bias")
    return Layout(format=FORMAT, entries=tuple(entries), ignored=ignored)
