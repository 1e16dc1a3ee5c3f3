"""big_vision: the npz files of SigLIP, SigLIP 2 and LiT (`two_towers`), in Flax Linen's names.

Kernels stand there as they do here, the inputs first, the heads an axis of their own. Norms have
epsilon 1e-6 and MLPs the tanh form of GELU, which no file says. A text tower may be flaxformer's
BERT, as LiT has it: see `big_vision_bert`.

Source: https://github.com/google-research/big_vision, models/vit.py and
models/proj/image_text/{two_towers,text_transformer,naflex_vit}.py.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from clipjax.config import BertConfig, DualEncoderConfig, TextConfig, UserError, ViTConfig
from clipjax.interchange import big_vision_bert
from clipjax.interchange.layout import Entry, Layout, Piece, Shape, same
from clipjax.interchange.requirements import require

FORMAT = "big_vision"
PREFIX = "params/"

_FUNCTIONS = {"activation": "gelu_tanh", "norm_eps": 1e-6}
_WANTED = {
    "image.kind": "vit",
    "image.pool": ("map", "mean", "cls"),
    "image.unpooled_class_token": False,
    "image.registers": 0,
    "image.positions": ("learned", "sincos2d"),
    "image.pre_norm": False,
    "image.layer_scale": None,
    "image.patch_bias": True,
    "image.qkv_bias": True,
    "text.kind": ("transformer", "bert"),
    "decoder": None,
    **{f"image.{name}": value for name, value in _FUNCTIONS.items()},
}
_WANTED_TEXT = {
    "text.causal": False,
    "text.pool": ("last", "mean"),
    "text.layer_scale": None,
    **{f"text.{name}": value for name, value in _FUNCTIONS.items()},
}


def layout(
    config: DualEncoderConfig,
    *,
    prefix: str = PREFIX,
    scanned: bool = False,
    naflex: bool = False,
) -> Layout:
    """Returns where big_vision keeps the parameters of a model.

    With `class_position` the table of positions has a row for the class token, as in big_vision's
    older files, which its loader still takes.

    Args:
        config: of the model.
        prefix: of all names; empty in some files.
        scanned: whether the layers of a tower stand in one array each, the layer its first axis.
        naflex: whether the image tower is that of SigLIP 2's NaFlex: patches are embedded by a
            matrix, and the table of positions has two axes.

    Raises:
        UserError: if the model is none that a two_towers can hold.
    """
    require(config, FORMAT, _WANTED)
    vit = config.image
    assert isinstance(vit, ViTConfig)
    if vit.pool == "mean":
        require(config, FORMAT, {"image.norm_before_pool": True})
    if vit.projection:
        require(config, FORMAT, {"image.projection_bias": True})
    if naflex:
        require(config, f"{FORMAT}'s NaFlex", {"image.pool": "map", "image.positions": "learned"})
    entries = [
        *image_entries(vit, f"{prefix}img", scanned=scanned, naflex=naflex),
        *_text_entries(config, f"{prefix}txt", scanned=scanned),
        same("log_logit_scale", f"{prefix}t", shape=(1,)),
    ]
    if config.init_logit_bias is not None:
        entries.append(same("logit_bias", f"{prefix}b", shape=(1,)))
    return Layout(format=FORMAT, entries=tuple(entries))


def image_entries(
    vit: ViTConfig, theirs: str, *, scanned: bool = False, naflex: bool = False
) -> Iterable[Entry]:
    """Yields the entries of an image tower below `theirs`."""
    side = vit.image_size // vit.patch_size
    flat = (3 * vit.patch_size**2, vit.width) if naflex else None
    yield same("image/patchify/kernel", f"{theirs}/embedding/kernel", shape=flat)
    yield same("image/patchify/bias", f"{theirs}/embedding/bias")
    if vit.pool == "cls":
        yield same("image/class_token", f"{theirs}/cls", shape=(1, 1, vit.width))
    if vit.positions == "learned":
        rows = vit.num_patches + vit.front_positions
        shape = (side, side, vit.width) if naflex else (1, rows, vit.width)
        yield same("image/positions", f"{theirs}/pos_embedding", shape=shape)
    yield from _encoder("image", f"{theirs}/Transformer", vit.depth, scanned=scanned)
    if vit.pool == "map":
        yield from _map_head("image/pool", f"{theirs}/MAPHead_0", vit.width)
    if vit.projection:
        yield from _dense("image/project", f"{theirs}/head")


def _text_entries(config: DualEncoderConfig, theirs: str, *, scanned: bool) -> Iterable[Entry]:
    text = config.text
    if isinstance(text, BertConfig):
        require(config, FORMAT, big_vision_bert.WANTED)
        return big_vision_bert.entries(text, theirs)
    assert isinstance(text, TextConfig)
    require(config, FORMAT, _WANTED_TEXT)
    if text.projection:
        require(config, FORMAT, {"text.projection_bias": True})
    return _text(text, theirs, scanned=scanned)


def _text(text: TextConfig, theirs: str, *, scanned: bool) -> Iterable[Entry]:
    yield same("text/embedding", f"{theirs}/Embed_0/embedding")
    yield same(
        "text/positions", f"{theirs}/pos_embedding", shape=(1, text.context_length, text.width)
    )
    yield from _encoder("text", f"{theirs}/Encoder_0", text.depth, scanned=scanned)
    if text.projection:
        yield from _dense("text/project", f"{theirs}/head")


def _encoder(tower: str, theirs: str, depth: int, *, scanned: bool) -> Iterable[Entry]:
    yield from _norm(f"{tower}/norm", f"{theirs}/encoder_norm")
    if not scanned:
        for layer in range(depth):
            yield from _block(f"{tower}/blocks/stack/{layer}", f"{theirs}/encoderblock_{layer}")
        return
    layers = [
        [
            dataclasses.replace(entry, piece=Piece(first=i, last=i + 1, of=depth, stacked=True))
            for entry in _block(f"{tower}/blocks/stack/{i}", f"{theirs}/encoderblock")
        ]
        for i in range(depth)
    ]
    # All layers of one tensor after each other, so that it is read and written once.
    for same_tensor in zip(*layers, strict=True):
        yield from same_tensor


def _block(ours: str, theirs: str) -> Iterable[Entry]:
    yield from _norm(f"{ours}/ln_1", f"{theirs}/LayerNorm_0")
    attention = f"{theirs}/MultiHeadDotProductAttention_0"
    yield from _stacked(f"{ours}/attn/qkv", attention, ("query", "key", "value"))
    yield from _dense(f"{ours}/attn/out", f"{attention}/out")
    yield from _norm(f"{ours}/ln_2", f"{theirs}/LayerNorm_1")
    yield from _mlp(f"{ours}/mlp", f"{theirs}/MlpBlock_0")


def _map_head(ours: str, theirs: str, width: int) -> Iterable[Entry]:
    attention = f"{theirs}/MultiHeadDotProductAttention_0"
    yield same(f"{ours}/probe", f"{theirs}/probe", shape=(1, 1, width))
    yield from _dense(f"{ours}/query", f"{attention}/query")
    yield from _stacked(f"{ours}/key_value", attention, ("key", "value"))
    yield from _dense(f"{ours}/out", f"{attention}/out")
    yield from _norm(f"{ours}/norm", f"{theirs}/LayerNorm_0")
    yield from _mlp(f"{ours}/mlp", f"{theirs}/MlpBlock_0")


def _norm(ours: str, theirs: str) -> Iterable[Entry]:
    return same(f"{ours}/scale", f"{theirs}/scale"), same(f"{ours}/bias", f"{theirs}/bias")


def _dense(ours: str, theirs: str) -> Iterable[Entry]:
    return same(f"{ours}/kernel", f"{theirs}/kernel"), same(f"{ours}/bias", f"{theirs}/bias")


def _mlp(ours: str, theirs: str) -> Iterable[Entry]:
    yield from _dense(f"{ours}/fc1", f"{theirs}/Dense_0")
    yield from _dense(f"{ours}/fc2", f"{theirs}/Dense_1")


def _stacked(ours: str, theirs: str, maps: tuple[str, ...]) -> Iterable[Entry]:
    for leaf, axis in (("kernel", 1), ("bias", 0)):
        names = tuple(f"{theirs}/{name}/{leaf}" for name in maps)
        yield Entry(ours=f"{ours}/{leaf}", theirs=names, stack_axis=axis)


def options_of(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Returns the options of `layout` that a file was written with.

    Args:
        shapes: of its tensors by name.

    Raises:
        UserError: if it holds no two towers.
    """
    prefix = next((p for p in (PREFIX, "") if f"{p}img/embedding/kernel" in shapes), None)
    words = ("Embed_0/embedding", big_vision_bert.WORDS)
    if prefix is None or not any(f"{prefix}txt/{name}" in shapes for name in words):
        raise UserError(
            f"these are not the tensors of a {FORMAT} model of two towers: img/embedding/kernel "
            f"and txt/{' or txt/'.join(words)} are expected, with or without 'params/' before them."
        )
    return {
        "prefix": prefix,
        "scanned": f"{prefix}img/Transformer/encoderblock/LayerNorm_0/scale" in shapes,
        "naflex": len(shapes[f"{prefix}img/embedding/kernel"]) == 2,
    }


def config_of(shapes: Mapping[str, Shape]) -> DualEncoderConfig:
    """Returns the config of the model in a file; with pixels between -1 and 1, as SigLIP's.

    What shapes do not say is that of SigLIP and LiT: where a text is pooled (the last token; BERT's
    first), how long it is if it is BERT's (16 tokens) and how pictures become squares (squeezed).

    Args:
        shapes: of its tensors by name.

    Raises:
        UserError: if it holds no two towers that can be read here.
    """
    options = options_of(shapes)
    prefix, naflex = options["prefix"], options["naflex"]
    image, text = f"{prefix}img", f"{prefix}txt"
    try:
        values, width = shapes[f"{image}/embedding/kernel"][-2:]
        patch = shapes[f"{image}/embedding/kernel"][0]
        patch = math.isqrt(values // 3) if naflex else patch
        space = shapes.get(f"{image}/head/kernel", (width,))[-1]
        config = DualEncoderConfig(
            image=ViTConfig(
                image_size=patch * _grid(shapes, image),
                patch_size=patch,
                pre_norm=False,
                patch_bias=True,
                **_head(shapes, image),
                **_pool(shapes, image),
                **_tower(shapes, f"{image}/Transformer"),
            ),
            text=_text_config(shapes, text),
            embed_dim=space,
            init_logit_scale=10.0,
            init_logit_bias=-10.0 if f"{prefix}b" in shapes else None,
            pixel_mean=(0.5, 0.5, 0.5),
            pixel_std=(0.5, 0.5, 0.5),
            resize="squash",
            interpolation="bilinear",
        )
    except KeyError as error:
        raise UserError(
            f"these are not the tensors of a {FORMAT} model of two towers: {error.args[0]} is "
            "missing. Give a whole file."
        ) from error
    except ValueError as error:
        raise UserError(f"no {FORMAT} model of two towers that is known here: {error}.") from error
    return config


def _text_config(shapes: Mapping[str, Shape], text: str) -> BertConfig | TextConfig:
    if f"{text}/{big_vision_bert.WORDS}" in shapes:
        return big_vision_bert.config_of(shapes, text)
    vocab, _ = shapes[f"{text}/Embed_0/embedding"]
    return TextConfig(
        vocab_size=vocab,
        context_length=shapes[f"{text}/pos_embedding"][1],
        causal=False,
        pool="last",
        **_head(shapes, text),
        **_tower(shapes, f"{text}/Encoder_0"),
    )


def _grid(shapes: Mapping[str, Shape], image: str) -> int:
    *rows, _ = shapes[f"{image}/pos_embedding"]
    return math.isqrt(math.prod(rows))  # with a class token there is one more than a square


def _head(shapes: Mapping[str, Shape], tower: str) -> dict[str, Any]:
    found = f"{tower}/head/kernel" in shapes
    return {"projection": found, "projection_bias": found}


def _pool(shapes: Mapping[str, Shape], image: str) -> dict[str, Any]:
    if f"{image}/MAPHead_0/probe" in shapes:
        return {"pool": "map"}
    if f"{image}/cls" in shapes:
        *_, rows, _ = shapes[f"{image}/pos_embedding"]
        return {"pool": "cls", "class_position": math.isqrt(rows) ** 2 != rows}
    return {"pool": "mean", "norm_before_pool": True}


def _tower(shapes: Mapping[str, Shape], encoder: str) -> dict[str, Any]:
    layers = {
        int(match[1])
        for name in shapes
        if (match := re.match(rf"{re.escape(encoder)}/encoderblock_(\d+)/", name))
    }
    block = f"{encoder}/encoderblock_0" if layers else f"{encoder}/encoderblock"
    *stack, width, heads, _ = shapes[f"{block}/MultiHeadDotProductAttention_0/query/kernel"]
    return {
        "width": width,
        "depth": stack[0] if stack else len(layers),
        "num_heads": heads,
        "mlp_dim": shapes[f"{block}/MlpBlock_0/Dense_0/kernel"][-1],
        **_FUNCTIONS,
    }
