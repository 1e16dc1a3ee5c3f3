"""The vocabulary of a model in a folder, in our own file or as others keep it."""

import json
import sys
from pathlib import Path

from clipjax.config import DualEncoderConfig, UserError
from clipjax.data.tokenizers import AbsentTokenizer, Tokenizer, tokenizer_from_json
from clipjax.interchange.transformers import tokenizer as transformers

# Whole, with frame and hash; beside the files that the other codebase reads.
OURS = "clipjax_tokenizer.json"
_CLIP_VOCABULARY = 49408
_THEIRS = ("tokenizer_config.json", "tokenizer.json", "spiece.model", "merges.txt")


def read_tokenizer(directory: Path, config: DualEncoderConfig) -> Tokenizer:
    """Returns the tokenizer of a folder; one that says what is missing where there is none."""
    if (directory / OURS).is_file():
        return tokenizer_from_json(json.loads((directory / OURS).read_text(encoding="utf-8")))
    if any((directory / name).is_file() for name in _THEIRS):
        try:
            return transformers.read_tokenizer(directory, config.text)
        except UserError as error:
            return absent_tokenizer(config, str(error))
    if config.text.vocab_size != _CLIP_VOCABULARY:
        return absent_tokenizer(config, f"{directory} holds no {OURS}.")
    from clipjax.data.tokenizers.clip import ClipTokenizer
    from clipjax.data.tokenizers.clip_vocabulary import find_merges

    try:
        merges = find_merges("")
        return ClipTokenizer(merges, context_length=config.text.context_length)
    except UserError as error:
        return absent_tokenizer(config, str(error))


def absent_tokenizer(config: DualEncoderConfig, reason: str) -> AbsentTokenizer:
    """Returns what stands for a vocabulary that is not there."""
    return AbsentTokenizer(
        context_length=config.text.context_length,
        vocab_size=config.text.vocab_size,
        reason=reason,
    )


def write_tokenizer(
    directory: Path, tokenizer: Tokenizer, config: DualEncoderConfig, format_name: str
) -> None:
    """Writes our own file and those of transformers; nothing for a vocabulary that is not there.

    Args:
        directory: of the model.
        tokenizer: of the model.
        config: of the model.
        format_name: of the files around.
    """
    if isinstance(tokenizer, AbsentTokenizer):
        return
    (directory / OURS).write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")
    if format_name != "transformers":
        return
    try:
        files = transformers.tokenizer_files(tokenizer, config.text)
    except UserError as error:
        print(f"warning: {directory}: without a tokenizer: {error}", file=sys.stderr)
        return
    for name, content in files.items():
        (directory / name).write_bytes(content)
