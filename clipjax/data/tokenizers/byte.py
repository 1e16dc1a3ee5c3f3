"""UTF-8 bytes as tokens: no vocabulary to train or to ship."""

from typing import Any

import numpy as np

from clipjax.data.tokenizers.digest import json_digest
from clipjax.data.tokenizers.frame import frame

VOCAB_SIZE = 258  # 256 bytes, start, end


class ByteTokenizer:
    """Each byte is its own id; 256 starts a text and 257 ends it.

    >>> ByteTokenizer(context_length=6, lowercase=True)("Ab").tolist()
    [256, 97, 98, 257, 0, 0]
    """

    vocab_size = VOCAB_SIZE

    def __init__(self, *, context_length: int, lowercase: bool):
        self.context_length, self.lowercase = context_length, lowercase

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "ByteTokenizer":
        """Returns the tokenizer that `to_json` described."""
        return cls(context_length=saved["context_length"], lowercase=saved["lowercase"])

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [context_length] ids."""
        ids = list((text.lower() if self.lowercase else text).encode())
        return frame(ids, self.context_length, self.vocab_size)

    def to_json(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_json` needs."""
        return {"kind": "byte", "context_length": self.context_length, "lowercase": self.lowercase}

    def digest(self) -> str:
        """Returns the SHA-256 of `to_json`."""
        return json_digest(self.to_json())
