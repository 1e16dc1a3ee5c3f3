"""Captions to token ids: bytes, trained or published vocabularies, each in its model's frame."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from clipjax.config import (
    BertConfig,
    ModernTextConfig,
    TextConfig,
    TextTowerConfig,
    TokenizerConfig,
)
from clipjax.config.errors import UserError
from clipjax.data.tokenizers.absent import AbsentTokenizer
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

    def digest(self) -> str:
        """Returns the SHA-256 of `to_json`: tokenizers that share it give equal ids."""
        ...


def make_tokenizer(
    config: TokenizerConfig, text: TextTowerConfig, captions: Callable[[], Iterable[str]]
) -> Tokenizer:
    """Returns the tokenizer of a new run.

    Args:
        config: its kind.
        text: of the tower that reads the ids; gives their number and the length of a text.
        captions: called when the kind has to be trained.

    Raises:
        UserError: if the vocabulary cannot be found or used, or does not fit the tower.
    """
    tokenizer = _make(config, text, captions)
    if text.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"config.model.text.vocab_size={text.vocab_size}: the tokenizer has ids up to "
            f"{tokenizer.vocab_size - 1}. Set it to {tokenizer.vocab_size}."
        )
    ids = tokenizer("").tolist()
    if max(ids) >= text.vocab_size:
        raise UserError(
            f"config.tokenizer.pad_id={max(ids)}: the text tower has only "
            f"{text.vocab_size} ids (model.text.vocab_size)."
        )
    if isinstance(text, TextConfig) and text.pool == "eot" and text.eot_id not in ids:
        raise UserError(
            f"config.model.text.pool='eot' looks for the last id, {text.eot_id}, but the "
            f"{config.kind} tokenizer does not end a text with it. Set model.text.vocab_size to "
            f"{tokenizer.vocab_size}, or model.text.pool to 'last' or 'mean'."
        )
    _check_padding(config, text, getattr(tokenizer, "pad_id", 0))
    return tokenizer


def _check_padding(config: TokenizerConfig, text: TextTowerConfig, filled_with: int) -> None:
    masks = isinstance(text, BertConfig | ModernTextConfig) or text.pool == "class"
    if masks and text.pad_id != filled_with:
        raise UserError(
            f"config.model.text.pad_id={text.pad_id}: the {config.kind} tokenizer fills a row with "
            f"{filled_with}, and a text tower of kind {text.kind!r} would take that for words. Set "
            "config.tokenizer.pad_id or config.model.text.pad_id, so that both are the padding of "
            "the vocabulary."
        )


def _make(
    config: TokenizerConfig, text: TextTowerConfig, captions: Callable[[], Iterable[str]]
) -> Tokenizer:
    length, lowercase = text.context_length, config.lowercase
    if config.kind == "byte":
        return ByteTokenizer(context_length=length, lowercase=lowercase)
    if config.kind == "clip":
        from clipjax.data.tokenizers.clip import ClipTokenizer
        from clipjax.data.tokenizers.clip_vocabulary import find_merges

        return ClipTokenizer(find_merges(config.path), context_length=length, lowercase=lowercase)
    if config.kind == "bpe":
        from clipjax.data.tokenizers.bpe import BpeTokenizer

        return BpeTokenizer.train(
            captions(), context_length=length, vocab_size=text.vocab_size, lowercase=lowercase
        )
    content = _read(config.path)
    frame = {
        "context_length": length,
        "lowercase": lowercase,
        "strip_punctuation": config.strip_punctuation,
        "pad_id": config.pad_id,
    }
    try:
        if config.kind == "sentencepiece":
            from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer

            return SentencePieceTokenizer(content, **frame)
        from clipjax.data.tokenizers.huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer(content.decode(errors="replace"), **frame)
    except UserError as error:
        raise UserError(f"config.tokenizer.path={config.path}: {error}") from error


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"config.tokenizer.path={path}: cannot be read (expected a file; {error.strerror})."
        ) from error


def tokenizer_from_json(saved: Mapping[str, Any]) -> Tokenizer:
    """Returns the tokenizer that `to_json` described.

    Raises:
        UserError: if its vocabulary was changed, its kind is unknown, or a package is missing.
    """
    saved, kind = dict(saved), saved.get("kind")
    if kind == "byte":
        return ByteTokenizer.from_json(saved)
    if kind == "bpe":
        from clipjax.data.tokenizers.bpe import BpeTokenizer

        return BpeTokenizer.from_json(saved)
    if kind == "clip":
        from clipjax.data.tokenizers.clip import ClipTokenizer

        return ClipTokenizer.from_json(saved)
    if kind == "sentencepiece":
        from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer.from_json(saved)
    if kind == "huggingface":
        from clipjax.data.tokenizers.huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer.from_json(saved)
    if kind == "absent":
        return AbsentTokenizer.from_json(saved)
    raise UserError(
        f"tokenizer.json: kind={kind!r} is not known here: it was saved by another version of "
        "clipjax. Use that one."
    )


__all__ = ["AbsentTokenizer", "ByteTokenizer", "Tokenizer", "make_tokenizer", "tokenizer_from_json"]
