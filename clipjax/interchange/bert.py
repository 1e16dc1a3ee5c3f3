"""The names that transformers gives to BERT's tensors, which several formats share."""

from clipjax.interchange.layout import Entry, linear, norm, same, stacked_linear


def encoder(ours: str, theirs: str, *, depth: int) -> tuple[Entry, ...]:
    """Returns the entries of embeddings and blocks."""
    entries: list[Entry] = [
        same(f"{ours}/embedding", f"{theirs}.embeddings.word_embeddings.weight"),
        same(f"{ours}/positions", f"{theirs}.embeddings.position_embeddings.weight"),
        same(f"{ours}/types", f"{theirs}.embeddings.token_type_embeddings.weight"),
        *norm(f"{ours}/norm", f"{theirs}.embeddings.LayerNorm"),
    ]
    for layer in range(depth):
        entries += _block(f"{ours}/blocks/stack/{layer}", f"{theirs}.encoder.layer.{layer}")
    return tuple(entries)


def pooler(ours: str, theirs: str) -> tuple[Entry, ...]:
    """Returns the entries of the pre-trained pooler of the first token."""
    return linear(f"{ours}/pooler", f"{theirs}.pooler.dense")


def _block(ours: str, theirs: str) -> tuple[Entry, ...]:
    attention = f"{theirs}.attention"
    return (
        *stacked_linear(
            f"{ours}/attn/qkv", [f"{attention}.self.{part}" for part in ("query", "key", "value")]
        ),
        *linear(f"{ours}/attn/out", f"{attention}.output.dense", input_axes=2),
        *norm(f"{ours}/ln_1", f"{attention}.output.LayerNorm"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.intermediate.dense"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.output.dense"),
        *norm(f"{ours}/ln_2", f"{theirs}.output.LayerNorm"),
    )
