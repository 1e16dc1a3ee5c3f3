"""open_clip's CoCa: attentional pooler, class token behind the text, multimodal decoder."""

from clipjax.config import CocaDecoderConfig, DualEncoderConfig, TextConfig, ViTConfig
from clipjax.interchange.layout import Entry, Layout, linear, norm, same
from clipjax.interchange.open_clip.clip import FORMAT, block


def pooler_layout(config: DualEncoderConfig) -> Layout:
    """Returns the layout of the attentional pooler of `pool='coca'`; empty for other pools."""
    image = config.image
    if not isinstance(image, ViTConfig) or image.pool != "coca":
        return Layout(format=FORMAT, entries=())
    ours, theirs = "image/pool/attn", "visual.attn_pool.attn"
    if image.width == config.embed_dim:
        projections = (
            Entry(ours=f"{ours}/qkv/kernel", theirs=(f"{theirs}.in_proj_weight",), kind="linear"),
            Entry(ours=f"{ours}/qkv/bias", theirs=(f"{theirs}.in_proj_bias",), kind="bias"),
        )
    else:
        # torch keeps three matrices where the widths differ, and one bias all the same.
        projections = (
            Entry(ours=f"{ours}/query/kernel", theirs=(f"{theirs}.q_proj_weight",), kind="linear"),
            Entry(
                ours=f"{ours}/key_value/kernel",
                theirs=(f"{theirs}.k_proj_weight", f"{theirs}.v_proj_weight"),
                kind="linear",
                stack_axis=1,
            ),
            Entry(ours=f"{ours}/bias", theirs=(f"{theirs}.in_proj_bias",), kind="bias"),
        )
    return Layout(
        format=FORMAT,
        entries=(
            same("image/pool/queries", "visual.attn_pool.query"),
            *norm("image/pool/ln_queries", "visual.attn_pool.ln_q"),
            *norm("image/pool/ln_context", "visual.attn_pool.ln_k"),
            *projections,
            *linear(f"{ours}/out", f"{theirs}.out_proj", input_axes=2),
        ),
    )


def class_token_layout(config: DualEncoderConfig, prefix: str) -> Layout:
    """Returns the layout of the class token of `pool='class'`; empty for other pools.

    Args:
        config: of the model.
        prefix: of the text tower.
    """
    text = config.text
    present = isinstance(text, TextConfig) and text.pool == "class"
    entries = (same("text/class_token", f"{prefix}cls_emb"),) if present else ()
    return Layout(format=FORMAT, entries=entries)


def decoder_layout(config: DualEncoderConfig) -> Layout:
    """Returns the layout of CoCa's decoder; empty without one."""
    decoder = config.decoder
    if not isinstance(decoder, CocaDecoderConfig):
        return Layout(format=FORMAT, entries=())
    entries = [
        *norm("decoder/norm", "text_decoder.ln_final"),
        same("decoder/project/kernel", "text_decoder.text_projection"),
    ]
    for layer in range(decoder.depth):
        ours = f"decoder/blocks/stack/{layer}"
        read = f"text_decoder.cross_attn.{layer}"
        entries += block(f"{ours}/text_block", f"text_decoder.resblocks.{layer}", layer_scale=False)
        entries += block(f"{ours}/image_block", read, layer_scale=False)
        entries += norm(f"{ours}/image_block/ln_context", f"{read}.ln_1_kv")
    return Layout(format=FORMAT, entries=tuple(entries), ignored=("text_decoder.attn_mask",))
