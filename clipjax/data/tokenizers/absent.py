"""Stands where a model came without its vocabulary: images can be encoded, texts cannot."""

from typing import Any

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.tokenizers.digest import json_digest


class AbsentTokenizer:
    """Has the sizes of a tokenizer, and says what is missing when it is used.

    Args:
        context_length: ids of a text.
        vocab_size: of the text tower.
        reason: what was looked for, and what to do.
    """

    def __init__(self, *, context_length: int, vocab_size: int, reason: str):
        self.context_length, self.vocab_size, self.reason = context_length, vocab_size, reason

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "AbsentTokenizer":
        """Returns the tokenizer that `to_json` described."""
        sizes = {name: saved[name] for name in ("context_length", "vocab_size")}
        return cls(**sizes, reason=saved["reason"])

    def __call__(self, text: str) -> np.ndarray:
        """Raises UserError: there is no vocabulary."""
        raise UserError(f"the text {text!r:.40} cannot be encoded: {self.reason}")

    def to_json(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_json` needs."""
        return {
            "kind": "absent",
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "reason": self.reason,
        }

    def digest(self) -> str:
        """Returns the SHA-256 of `to_json`."""
        return json_digest(self.to_json())
