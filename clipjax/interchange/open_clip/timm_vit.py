"""timm's VisionTransformer below open_clip's `visual.trunk`: SigLIP, MobileCLIP 2, GAP models."""

from clipjax.config import DualEncoderConfig, UserError, ViTConfig
from clipjax.interchange.layout import Entry, Layout, conv, linear, norm, same
from clipjax.interchange.open_clip.clip import FORMAT, vit_layout

TRUNK = "visual.trunk"


def is_timm(vit: ViTConfig) -> bool:
    """Returns whether a tower has what open_clip's own Vision Transformer has not."""
    return (
        vit.pool == "map"
        or not vit.has_class_token
        or vit.patch_bias
        or vit.projection_bias
        or not vit.projection
        or not vit.qkv_bias
    )


def any_vit_layout(config: DualEncoderConfig) -> Layout:
    """Returns the layout of a Vision Transformer: open_clip's own, or timm's where it needs that.

    Raises:
        UserError: if neither has such a tower.
    """
    vit = config.image
    assert isinstance(vit, ViTConfig)
    if vit.positions != "learned":
        raise UserError(
            f"model.image.positions={vit.positions!r}: {FORMAT} has learned ones only. Put their "
            "numbers into a learned table."
        )
    if not vit.class_position:
        raise UserError(
            f"model.image.class_position=False: {FORMAT} adds a position to the class token too."
        )
    if vit.registers:
        raise UserError(f"model.image.registers={vit.registers}: {FORMAT} has no place for them.")
    return timm_vit_layout(config) if is_timm(vit) else vit_layout(config)


def timm_vit_layout(config: DualEncoderConfig) -> Layout:
    """Returns the layout of timm's VisionTransformer with open_clip's head.

    A projection without bias is open_clip's `head.proj`, one with bias is timm's classifier.
    """
    vit = config.image
    assert isinstance(vit, ViTConfig)
    places = vit.num_patches + vit.front_positions
    entries: list[Entry] = [
        *conv("image/patchify", f"{TRUNK}.patch_embed.proj", bias=vit.patch_bias),
        same("image/positions", f"{TRUNK}.pos_embed", (1, places, vit.width)),
    ]
    if vit.has_class_token:
        entries.append(same("image/class_token", f"{TRUNK}.cls_token", (1, 1, vit.width)))
    if vit.pre_norm:
        entries += norm("image/pre_norm", f"{TRUNK}.norm_pre")
    for layer in range(vit.depth):
        entries += timm_block(f"image/blocks/stack/{layer}", f"{TRUNK}.blocks.{layer}", vit)
    behind_mean = vit.pool == "mean" and not vit.norm_before_pool
    entries += norm("image/norm", f"{TRUNK}.{'fc_norm' if behind_mean else 'norm'}")
    if vit.pool == "map":
        entries += attention_pool("image/pool", f"{TRUNK}.attn_pool", vit.width)
    if vit.projection:
        head = f"{TRUNK}.head" if vit.projection_bias else "visual.head.proj"
        entries += linear("image/project", head, bias=vit.projection_bias)
    return Layout(format=FORMAT, entries=tuple(entries))


def timm_block(ours: str, theirs: str, vit: ViTConfig) -> tuple[Entry, ...]:
    """Returns the entries of one of timm's blocks."""
    scales = (
        same(f"{ours}/ls_1/gain", f"{theirs}.ls1.gamma"),
        same(f"{ours}/ls_2/gain", f"{theirs}.ls2.gamma"),
    )
    return (
        *norm(f"{ours}/ln_1", f"{theirs}.norm1"),
        *linear(f"{ours}/attn/qkv", f"{theirs}.attn.qkv", bias=vit.qkv_bias),
        *linear(f"{ours}/attn/out", f"{theirs}.attn.proj", input_axes=2),
        *norm(f"{ours}/ln_2", f"{theirs}.norm2"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
        *(scales if vit.layer_scale is not None else ()),
    )


def attention_pool(ours: str, theirs: str, width: int) -> tuple[Entry, ...]:
    """Returns the entries of timm's AttentionPoolLatent with one latent (MAP head)."""
    return (
        same(f"{ours}/probe", f"{theirs}.latent", (1, 1, width)),
        *linear(f"{ours}/query", f"{theirs}.q"),
        *linear(f"{ours}/key_value", f"{theirs}.kv"),
        *linear(f"{ours}/out", f"{theirs}.proj", input_axes=2),
        *norm(f"{ours}/norm", f"{theirs}.norm"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
    )
