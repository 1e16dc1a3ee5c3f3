"""open_clip's own towers: VisionTransformer and the text transformer of CLIP."""

from clipjax.config import DualEncoderConfig, TextConfig, ViTConfig
from clipjax.interchange.layout import Entry, Layout, linear, norm, same

FORMAT = "open_clip"


def block(ours: str, theirs: str, *, layer_scale: bool) -> tuple[Entry, ...]:
    """Returns the entries of one ResidualAttentionBlock."""
    fused = Entry(
        ours=f"{ours}/attn/qkv/kernel", theirs=(f"{theirs}.attn.in_proj_weight",), kind="linear"
    )
    fused_bias = Entry(
        ours=f"{ours}/attn/qkv/bias", theirs=(f"{theirs}.attn.in_proj_bias",), kind="bias"
    )
    scales = (
        same(f"{ours}/ls_1/gain", f"{theirs}.ls_1.gamma"),
        same(f"{ours}/ls_2/gain", f"{theirs}.ls_2.gamma"),
    )
    return (
        *norm(f"{ours}/ln_1", f"{theirs}.ln_1"),
        fused,
        fused_bias,
        *linear(f"{ours}/attn/out", f"{theirs}.attn.out_proj", input_axes=2),
        *norm(f"{ours}/ln_2", f"{theirs}.ln_2"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.c_fc"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.c_proj"),
        *(scales if layer_scale else ()),
    )


def vit_layout(config: DualEncoderConfig) -> Layout:
    """Returns the layout of a VisionTransformer."""
    vit = config.image
    assert isinstance(vit, ViTConfig)
    entries: list[Entry] = [
        Entry(ours="image/patchify/kernel", theirs=("visual.conv1.weight",), kind="conv"),
        same("image/class_token", "visual.class_embedding"),
        same("image/positions", "visual.positional_embedding"),
        *(norm("image/pre_norm", "visual.ln_pre") if vit.pre_norm else ()),
        *norm("image/norm", "visual.ln_post"),
        same("image/project/kernel", "visual.proj"),
    ]
    for layer in range(vit.depth):
        entries += block(
            f"image/blocks/stack/{layer}",
            f"visual.transformer.resblocks.{layer}",
            layer_scale=vit.layer_scale is not None,
        )
    return Layout(format=FORMAT, entries=tuple(entries))


def text_layout(config: DualEncoderConfig, prefix: str) -> Layout:
    """Returns the layout of a text transformer.

    Args:
        config: of the model.
        prefix: empty for CLIP, "text." for CustomTextCLIP and CoCa.
    """
    text = config.text
    assert isinstance(text, TextConfig)
    entries: list[Entry] = [
        same("text/embedding", f"{prefix}token_embedding.weight"),
        same("text/positions", f"{prefix}positional_embedding"),
        *norm("text/norm", f"{prefix}ln_final"),
    ]
    if text.projection and text.projection_bias:
        entries += linear("text/project", f"{prefix}text_projection")
    elif text.projection:
        entries.append(same("text/project/kernel", f"{prefix}text_projection"))
    for layer in range(text.depth):
        entries += block(
            f"text/blocks/stack/{layer}",
            f"{prefix}transformer.resblocks.{layer}",
            layer_scale=text.layer_scale is not None,
        )
    return Layout(format=FORMAT, entries=tuple(entries), ignored=(f"{prefix}attn_mask",))


def scale_layout(config: DualEncoderConfig) -> Layout:
    """Returns the layout of logit scale and bias."""
    entries = [same("log_logit_scale", "logit_scale")]
    if config.init_logit_bias is not None:
        entries.append(same("logit_bias", "logit_bias"))
    return Layout(format=FORMAT, entries=tuple(entries))
