"""One tower from a checkpoint of one modality: a Vision Transformer of ImageNet, a BERT.

timm's VisionTransformer, the npz files of big_vision and of vision_transformer (AugReg), and
transformers' BertModel and its descendants. Classifiers and language-model heads are left out; the
projection to the shared space is in no such file. With `clipjax.models.surgery.replace_tower` the
tower takes its place in a model, as LiT begins (https://arxiv.org/abs/2111.07991).

No file says its activation and its epsilons: the config must (timm and big_vision: norm_eps=1e-6;
BERT: 1e-12).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np

from clipjax.config import BertConfig, DualEncoderConfig, UserError, ViTConfig
from clipjax.interchange.bert import encoder, pooler
from clipjax.interchange.big_vision import image_entries
from clipjax.interchange.layout import Entry, Layout, Shape, same
from clipjax.interchange.open_clip.timm_vit import TRUNK, timm_vit_layout
from clipjax.interchange.transfer import Tensors, read_params, unrolled
from clipjax.models import param_shapes
from clipjax.models.surgery import resampled_positions

TIMM, BIG_VISION, BERT = "timm", "big_vision", "transformers' BertModel"

_POSITIONS = "image/positions"
_WORDS = "embeddings.word_embeddings.weight"

# vision_transformer counts the parts of a block through; big_vision counts each kind.
_AUGREG = (
    (r"^pos_embedding$", "Transformer/posembed_input/pos_embedding"),
    (r"MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
    (r"(encoderblock_\d+)/LayerNorm_1", r"\1/LayerNorm_2"),
    (r"MlpBlock_0", "MlpBlock_3"),
)


def tower_from(
    tensors: Tensors, config: DualEncoderConfig, part: Literal["image", "text"]
) -> dict[str, np.ndarray]:
    """Returns the parameters of one tower by our names, without the projection.

    Positions of another image size are resampled, see `clipjax.models.surgery.resize_image`.

    Args:
        tensors: of the file.
        config: of the model that the tower is for; layers are stacked as it wants them.
        part: which tower.

    Raises:
        UserError: if the file is none of the known kinds, or holds another tower.
    """
    shapes = tensors.shapes()
    make = _image_layout if part == "image" else _text_layout
    layout = make(tensors.source, shapes, config)
    _check_whole(layout, config, part, tensors.source)
    table = next((e for e in layout.entries if e.ours == _POSITIONS), None)
    if table is None:
        return dict(read_params(layout, config, tensors))
    # Read by hand: their rows may be those of another image size, or without the class token's.
    (name,) = table.theirs
    rest = dataclasses.replace(
        layout,
        entries=tuple(entry for entry in layout.entries if entry is not table),
        ignored=(*layout.ignored, name),
    )
    params = dict(read_params(rest, config, tensors))
    if name not in shapes:
        raise UserError(f"{tensors.source}: {name} is missing; it holds the positions.")
    return params | {_POSITIONS: _positions(tensors, name, config)}


def _check_whole(layout: Layout, config: DualEncoderConfig, part: str, source: str) -> None:
    """Raises UserError if the config asks for something that such files never hold."""
    placed = {entry.ours for entry in layout.entries}
    ours = {name for name in param_shapes(unrolled(config)) if name.startswith(f"{part}/")}
    without = sorted(
        name
        for name in ours - placed
        if not name.startswith((f"{part}/project/", f"{part}/hidden/"))
    )
    more = sorted(placed - ours)
    if without or more:
        found = f"has {without[0]}, which" if without else f"lacks {more[0]}, which"
        raise UserError(
            f"{source}: the {part} tower of the config {found} a checkpoint of {layout.format} "
            f"{'has not' if without else 'has'}. Change config.model.{part}."
        )


def _positions(tensors: Tensors, name: str, config: DualEncoderConfig) -> np.ndarray:
    vit = config.image
    assert isinstance(vit, ViTConfig)
    shape = tensors.shapes()[name]
    table = tensors.read(name).astype(np.float32, copy=False).reshape(-1, shape[-1])
    front = vit.front_positions
    if front and math.isqrt(len(table)) ** 2 == len(table):
        # timm's `no_embed_class`: nothing is added to the class token.
        table = np.concatenate([np.zeros((1, table.shape[1]), np.float32), table])
    if table.shape[1] != vit.width or math.isqrt(len(table) - front) ** 2 != len(table) - front:
        raise UserError(
            f"{tensors.source}: {name} is {list(shape)}; expected the positions of a square of "
            f"patches{' and a class token' if front else ''}, {vit.width} channels."
        )
    if len(table) == vit.num_patches + front:
        return table
    return resampled_positions(table, vit.num_patches + front)


def _image_layout(source: str, shapes: Mapping[str, Shape], config: DualEncoderConfig) -> Layout:
    vit = config.image
    if not isinstance(vit, ViTConfig):
        raise UserError(
            f"{source}: model.image.kind={vit.kind!r} cannot begin with it; only 'vit' can."
        )
    if "patch_embed.proj.weight" in shapes:
        return _timm(config, vit)
    prefixes = ("", "params/", "opt/target/")
    prefix = next((p for p in prefixes if f"{p}embedding/kernel" in shapes), None)
    if prefix is None:
        raise UserError(
            f"{source}: holds no Vision Transformer by itself. Expected patch_embed.proj.weight "
            "(timm) or embedding/kernel (big_vision) among its names."
        )
    if vit.pool == "mean" and not vit.norm_before_pool:
        raise UserError(
            f"{source}: big_vision norms before the mean. Set "
            "config.model.image.norm_before_pool=True."
        )
    entries = image_entries(vit, "img")
    augreg = f"{prefix}Transformer/posembed_input/pos_embedding" in shapes
    renamed = _renamed(entries, lambda name: prefix + _big_vision(name, augreg=augreg))
    return Layout(
        format=BIG_VISION,
        entries=tuple(renamed),
        ignored=tuple(f"{prefix}{name}" for name in ("head/*", "pre_logits/*")),
    )


def _big_vision(name: str, *, augreg: bool) -> str:
    name = name.removeprefix("img/")
    for pattern, new in _AUGREG if augreg else ():
        name = re.sub(pattern, new, name)
    return name


def _timm(config: DualEncoderConfig, vit: ViTConfig) -> Layout:
    entries = [e for e in timm_vit_layout(config).entries if not e.ours.startswith("image/project")]
    if vit.registers:
        shape = (1, vit.registers, vit.width)
        entries.append(same("image/registers", f"{TRUNK}.reg_token", shape))
    return Layout(
        format=TIMM,
        entries=tuple(_renamed(entries, lambda name: name.removeprefix(f"{TRUNK}."))),
        ignored=("head.*", "head_dist.*", "pre_logits.*"),
    )


def _text_layout(source: str, shapes: Mapping[str, Shape], config: DualEncoderConfig) -> Layout:
    bert = config.text
    if not isinstance(bert, BertConfig):
        raise UserError(
            f"{source}: model.text.kind={bert.kind!r} cannot begin with it; only 'bert' can."
        )
    prefix = next((n.removesuffix(_WORDS) for n in shapes if n.endswith(_WORDS)), None)
    if prefix is None:
        raise UserError(f"{source}: holds no {BERT}. Expected {_WORDS} among its names.")
    entries = [*encoder("text", "", depth=bert.depth)]
    ignored = [f"{prefix}embeddings.position_ids", "cls.*", "lm_head.*", "classifier.*"]
    if bert.has_pooler:
        entries += pooler("text", "")
    else:
        ignored.append(f"{prefix}pooler.*")
    # BERT's own first files still have TensorFlow's names of norms.
    old = f"{prefix}embeddings.LayerNorm.gamma" in shapes

    def named(name: str) -> str:
        if old:
            name = re.sub(r"(LayerNorm)\.weight$", r"\1.gamma", name)
            name = re.sub(r"(LayerNorm)\.bias$", r"\1.beta", name)
        return prefix + name.removeprefix(".")

    renamed = _renamed(entries, named)
    return Layout(format=BERT, entries=tuple(renamed), ignored=tuple(ignored))


def _renamed(entries: Iterable[Entry], new: Callable[[str], str]) -> Iterable[Entry]:
    for entry in entries:
        yield dataclasses.replace(entry, theirs=tuple(map(new, entry.theirs)))
