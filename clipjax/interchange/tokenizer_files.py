"""The vocabulary of a model in a folder, in our own file or as others keep it."""

import json
from pathlib import Path

from clipjax.config import DualEncoderConfig, UserError
from clipjax.data.tokenizers import AbsentTokenizer, Tokenizer, tokenizer_from_json

# Whole, with frame and hash; beside the files that the other codebase reads.
OURS = "clipjax_tokenizer.json"
_CLIP_VOCABULARY = 49408


def read_tokenizer(directory: Path, config: DualEncoderConfig) -> Tokenizer:
    """Returns the tokenizer of a folder; one that says what is missing where there is none."""
    if (directory / OURS).is_file():
        return tokenizer_from_json(json.loads((directory / OURS).read_text(encoding="utf-8")))
    if config.text.vocab_size != _CLIP_VOCABULARY:
        return absent_tokenizer(config, f"{directory} holds no {OURS}.")
    from clipjax.data.tokenizers.clip import ClipTokenizer
    from clipjax.data.tokenizers.clip_vocabulary import find_merges

    file = directory / "tokenizer.json"
    try:
        merges = find_merges(str(file) if file.is_file() else "")
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


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Writes our own file; nothing for a vocabulary that is not there."""
    if not isinstance(tokenizer, AbsentTokenizer):
        (directory / OURS).write_text(json.dumps(tokenizer.to_json()), encoding="utf-8")
