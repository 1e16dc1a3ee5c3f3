"""Captions to token ids: byte and trained byte-pair encoding, in CLIP's frame."""

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from clipjax.config import TextConfig, TokenizerConfig
from clipjax.data.tokenizers.byte import ByteTokenizer


@runtime_checkable
class Tokenizer(Protocol):
    """Maps a text to int32 [context_length] ids; threads may share it."""

    context_length: int
    vocab_size: int

    def __call__(self, text: str) -> np.ndarray:
        """Returns the ids."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_json` needs."""
        ...


def make_tokenizer(
    config: TokenizerConfig, text: TextConfig, captions: Callable[[], Iterable[str]]
) -> Tokenizer:
    """Returns the tokenizer of a new run.

    Args:
        config: its kind.
        text: of the tower that reads the ids; gives their number and the length of a text.
        captions: called when the kind has to be trained.
    """
    if config.kind == "byte":
        return ByteTokenizer(context_length=text.context_length, lowercase=config.lowercase)
    from clipjax.data.tokenizers.bpe import BpeTokenizer

    return BpeTokenizer.train(
        captions(),
        context_length=text.context_length,
        vocab_size=text.vocab_size,
        lowercase=config.lowercase,
    )


def tokenizer_from_json(saved: dict[str, Any]) -> Tokenizer:
    """Returns the tokenizer that `to_json` described."""
    if saved["kind"] == "byte":
        return ByteTokenizer(context_length=saved["context_length"], lowercase=saved["lowercase"])
    import tokenizers

    from clipjax.data.tokenizers.bpe import BpeTokenizer

    model = tokenizers.Tokenizer.from_str(json.dumps(saved["model"]))
    return BpeTokenizer(
        model, context_length=saved["context_length"], vocab_size=saved["vocab_size"]
    )


__all__ = ["ByteTokenizer", "Tokenizer", "make_tokenizer", "tokenizer_from_json"]
