"""flaxformer's BERT as the text tower of a big_vision two_towers: LiT's public models.

Kernels stand there with the heads in one axis. Norms have epsilon 1e-12 and MLPs the tanh form of
GELU, which no file says; padding is id 0, the first token is pooled.

Source: https://github.com/google-research/big_vision, models/proj/flaxformer/bert.py, and
https://github.com/google/flaxformer, architectures/bert/bert.py.
"""

import re
from collections.abc import Iterable, Mapping

from clipjax.config import BertConfig
from clipjax.interchange.layout import Entry, Shape, same

_ENCODER = "BertEncoder_0"
_EMBEDDER = f"{_ENCODER}/embedder/embedders"
_LAYER = f"{_ENCODER}/encoder_block/layer_sequence/layers"
WORDS = f"{_EMBEDDER}_token_ids/embedding"

WANTED = {
    "text.activation": "gelu_tanh",
    "text.norm_eps": 1e-12,
    "text.first_position": 0,
    "text.pad_id": 0,
    "text.pool": "first",
    "text.unused_pooler": False,
    "text.projection": ("linear_bias", "none"),
}
_HEAD_CHANNELS = 64  # of the sizes that big_vision knows, "base" and "large"
_CONTEXT_LENGTH = 16  # of LiT; positions go further


def entries(bert: BertConfig, theirs: str) -> Iterable[Entry]:
    """Yields the entries of the text tower below `theirs`."""
    yield same("text/embedding", f"{theirs}/{WORDS}")
    yield same("text/positions", f"{theirs}/{_EMBEDDER}_position_ids/embedding")
    yield same("text/types", f"{theirs}/{_EMBEDDER}_segment_ids/embedding")
    yield from _leaves("text/norm", f"{theirs}/{_ENCODER}/layer_norm", "scale")
    for layer in range(bert.depth):
        yield from _block(f"text/blocks/stack/{layer}", f"{theirs}/{_LAYER}_{layer}", bert.width)
    if bert.projection != "none":
        yield from _leaves("text/project", f"{theirs}/head", "kernel")


def _block(ours: str, theirs: str, width: int) -> Iterable[Entry]:
    attention, mlp = f"{theirs}/attention_block", f"{theirs}/mlp_block"
    maps = [f"{attention}/attention_layer/{name}" for name in ("query", "key", "value")]
    for leaf, axis, shape in (("kernel", 1, (width, width)), ("bias", 0, (width,))):
        names = tuple(f"{name}/{leaf}" for name in maps)
        yield Entry(ours=f"{ours}/attn/qkv/{leaf}", theirs=names, stack_axis=axis, shape=shape)
    out = f"{attention}/dense_layer"
    yield same(f"{ours}/attn/out/kernel", f"{out}/kernel", shape=(width, width))
    yield same(f"{ours}/attn/out/bias", f"{out}/bias")
    yield from _leaves(f"{ours}/ln_1", f"{attention}/layer_norm", "scale")
    yield from _leaves(f"{ours}/mlp/fc1", f"{mlp}/mlp/dense_layer", "kernel")
    yield from _leaves(f"{ours}/mlp/fc2", f"{mlp}/dense_layer", "kernel")
    yield from _leaves(f"{ours}/ln_2", f"{mlp}/layer_norm", "scale")


def _leaves(ours: str, theirs: str, first: str) -> Iterable[Entry]:
    for leaf in (first, "bias"):
        yield same(f"{ours}/{leaf}", f"{theirs}/{leaf}")


def config_of(shapes: Mapping[str, Shape], text: str) -> BertConfig:
    """Returns the config of the text tower below `text`.

    Args:
        shapes: of the tensors of the file by name.
        text: where the tower is.

    Raises:
        KeyError: if a tensor is missing.
        ValueError: if there is no such tower.
    """
    vocab, width = shapes[f"{text}/{WORDS}"]
    rows, _ = shapes[f"{text}/{_EMBEDDER}_position_ids/embedding"]
    types, _ = shapes[f"{text}/{_EMBEDDER}_segment_ids/embedding"]
    pattern = re.compile(rf"{re.escape(f'{text}/{_LAYER}')}_(\d+)/")
    layers = {match[1] for name in shapes if (match := pattern.match(name))}
    _, mlp_dim = shapes[f"{text}/{_LAYER}_0/mlp_block/mlp/dense_layer/kernel"]
    return BertConfig(
        vocab_size=vocab,
        context_length=min(_CONTEXT_LENGTH, rows),
        max_positions=rows,
        first_position=0,
        token_types=types,
        pad_id=0,
        width=width,
        depth=len(layers),
        num_heads=max(width // _HEAD_CHANNELS, 1),
        mlp_dim=mlp_dim,
        pool="first",
        projection="linear_bias" if f"{text}/head/kernel" in shapes else "none",
        activation="gelu_tanh",
        norm_eps=1e-12,
    )
