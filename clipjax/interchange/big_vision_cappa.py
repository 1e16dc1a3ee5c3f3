"""big_vision's CapPa: Flax Linen names of the image tower and of the decoder.

There is no text tower in these files, and nothing that makes an embedding of the image tokens.
"""

from clipjax.config import CappaDecoderConfig, DualEncoderConfig, UserError, ViTConfig
from clipjax.interchange.layout import Entry, Layout, same

FORMAT = "big_vision_cappa"

_TOWER = {
    "pool": ("mean",),
    "norm_before_pool": (True,),
    "pre_norm": (False,),
    "patch_bias": (True,),
    "positions": ("learned", "sincos2d"),
    "registers": (0,),
    "layer_scale": (None,),
    "unpooled_class_token": (False,),
}


def layout(config: DualEncoderConfig, *, prefix: str = "params/") -> Layout:
    """Returns where big_vision keeps the image tower and the decoder of a CapPa model.

    The text tower, the logit scale and the projection to the shared space have no place there: a
    model that is read so keeps its own.

    Args:
        config: of the model.
        prefix: in front of all names; empty for files of bare parameters.

    Raises:
        UserError: if big_vision has no such image tower for CapPa.
    """
    image, decoder = config.image, config.decoder
    if not isinstance(decoder, CappaDecoderConfig):
        raise UserError(f"{FORMAT}: the model has no decoder of kind 'cappa'.")
    assert isinstance(image, ViTConfig)
    for field, values in _TOWER.items():
        if getattr(image, field) not in values:
            raise UserError(
                f"{FORMAT}: model.image.{field}={getattr(image, field)!r}, expected "
                f"{' or '.join(map(repr, values))}: big_vision has no other tower with this "
                "decoder."
            )
    fused = decoder.width == config.image_token_width
    entries = (
        *_image(image, f"{prefix}encoder"),
        *_decoder(decoder, prefix, fused=fused),
    )
    return Layout(format=FORMAT, entries=entries)


def _image(image: ViTConfig, theirs: str) -> tuple[Entry, ...]:
    entries = [*_linear("image/patchify", f"{theirs}/embedding")]
    if image.positions == "learned":
        table = (1, image.num_patches, image.width)
        entries.append(same("image/positions", f"{theirs}/pos_embedding", table))
    for layer in range(image.depth):
        here = f"image/blocks/stack/{layer}"
        there = f"{theirs}/Transformer/encoderblock_{layer}"
        entries += [
            *_norm(f"{here}/ln_1", f"{there}/LayerNorm_0"),
            *_attention(f"{here}/attn", f"{there}/MultiHeadDotProductAttention_0", bias=True),
            *_norm(f"{here}/ln_2", f"{there}/LayerNorm_1"),
            *_linear(f"{here}/mlp/fc1", f"{there}/MlpBlock_0/Dense_0"),
            *_linear(f"{here}/mlp/fc2", f"{there}/MlpBlock_0/Dense_1"),
        ]
    return (*entries, *_norm("image/norm", f"{theirs}/Transformer/encoder_norm"))


def _decoder(decoder: CappaDecoderConfig, prefix: str, *, fused: bool) -> tuple[Entry, ...]:
    table = (1, decoder.context_length, decoder.width)
    entries = [
        same("decoder/embedding", f"{prefix}decoder/EmbedTargets/embedding"),
        same("decoder/positions", f"{prefix}pos_embedding_decoder", table),
        *_norm("decoder/norm", f"{prefix}decoder/LayerNorm"),
        *_linear("decoder/project", f"{prefix}decoder/LogitsDense"),
    ]
    for layer in range(decoder.depth):
        here, there = f"decoder/blocks/stack/{layer}", f"{prefix}decoder/EncDecBlock{layer}"
        for norm in (1, 2, 3):
            entries += _norm(f"{here}/ln_{norm}", f"{there}/LayerNorm{norm}", bias=decoder.bias)
        entries += _attention(f"{here}/self_attn", f"{there}/SelfAttn", bias=False)
        cross = f"{here}/image_attn", f"{there}/CrossAttn"
        entries += _attention(*cross, bias=False) if fused else _two_widths(*cross)
        entries += _linear(f"{here}/mlp/fc1", f"{there}/MLP/Dense_0", bias=decoder.bias)
        entries += _linear(f"{here}/mlp/fc2", f"{there}/MLP/Dense_1", bias=decoder.bias)
    return tuple(entries)


def _norm(ours: str, theirs: str, *, bias: bool = True) -> tuple[Entry, ...]:
    return _pair(ours, theirs, ("scale", "bias") if bias else ("scale",))


def _linear(ours: str, theirs: str, *, bias: bool = True) -> tuple[Entry, ...]:
    return _pair(ours, theirs, ("kernel", "bias") if bias else ("kernel",))


def _pair(ours: str, theirs: str, leaves: tuple[str, ...]) -> tuple[Entry, ...]:
    return tuple(same(f"{ours}/{leaf}", f"{theirs}/{leaf}") for leaf in leaves)


def _attention(ours: str, theirs: str, *, bias: bool) -> tuple[Entry, ...]:
    """Returns the entries of an attention whose three projections are one kernel here."""
    parts = ("query", "key", "value")
    entries = [_stacked(f"{ours}/qkv", theirs, "kernel", parts, axis=1)]
    if bias:
        entries.append(_stacked(f"{ours}/qkv", theirs, "bias", parts, axis=0))
    return (*entries, *_linear(f"{ours}/out", f"{theirs}/out", bias=bias))


def _two_widths(ours: str, theirs: str) -> tuple[Entry, ...]:
    """Returns the entries of an attention to tokens of another width, without biases."""
    return (
        same(f"{ours}/query/kernel", f"{theirs}/query/kernel"),
        _stacked(f"{ours}/key_value", theirs, "kernel", ("key", "value"), axis=1),
        same(f"{ours}/out/kernel", f"{theirs}/out/kernel"),
    )


def _stacked(ours: str, theirs: str, leaf: str, parts: tuple[str, ...], *, axis: int) -> Entry:
    names = tuple(f"{theirs}/{part}/{leaf}" for part in parts)
    return Entry(ours=f"{ours}/{leaf}", theirs=names, stack_axis=axis)
