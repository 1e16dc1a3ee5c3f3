"""Any `tokenizer.json` of Hugging Face `tokenizers`, cut and padded to the context."""

import json
from typing import Any

import numpy as np
import tokenizers

from clipjax.config.errors import UserError
from clipjax.data.tokenizers.canonical import canonical_text
from clipjax.data.tokenizers.digest import check_vocabulary, json_digest


class HuggingFaceTokenizer:
    """Normalisation, pieces and marks of the file; length and padding of the model.

    The marks that the file adds (its post-processor) are kept when a text is cut.

    Args:
        content: of the tokenizer.json.
        context_length: ids of a text, marks included.
        lowercase: fold case before what the file does.
        strip_punctuation: take out ASCII punctuation before.
        pad_id: fills a row; None for what the file's padding says, and 0 if it says nothing.

    Raises:
        UserError: if the file cannot be used, or its marks alone fill the context.
    """

    def __init__(
        self,
        content: str,
        *,
        context_length: int,
        lowercase: bool = True,
        strip_punctuation: bool = False,
        pad_id: int | None = None,
    ):
        try:
            self._file = json.loads(content)
            self._model = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the package raises nothing narrower
            raise UserError(
                f"no tokenizer.json of Hugging Face tokenizers ({error!s:.100}). Give one."
            ) from error
        ids = self._model.get_vocab(with_added_tokens=True).values()
        self.context_length, self.vocab_size = context_length, max(ids, default=-1) + 1
        self.lowercase, self.strip_punctuation = lowercase, strip_punctuation
        padding, truncation = self._model.padding or {}, self._model.truncation or {}
        self.pad_id = padding.get("pad_id", 0) if pad_id is None else pad_id
        self._pad_left = padding.get("direction") == "left"
        marks = self._model.num_special_tokens_to_add(is_pair=False)
        if marks >= context_length:
            raise UserError(
                f"the file adds {marks} marks to each text, which leave no room for it in "
                f"model.text.context_length={context_length}. Make that larger."
            )
        self._model.no_padding()
        self._model.enable_truncation(
            context_length, direction=truncation.get("direction", "right")
        )

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "HuggingFaceTokenizer":
        """Returns the tokenizer that `to_json` described.

        Raises:
            UserError: if the vocabulary is not the one that was saved.
        """
        check_vocabulary(saved, json_digest(saved["file"]))
        return cls(
            json.dumps(saved["file"]),
            context_length=saved["context_length"],
            lowercase=saved["lowercase"],
            strip_punctuation=saved["strip_punctuation"],
            pad_id=saved["pad_id"],
        )

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [context_length] ids."""
        text = canonical_text(
            text, lowercase=self.lowercase, strip_punctuation=self.strip_punctuation
        )
        # A lone surrogate is no character: it has no UTF-8, which the package takes.
        ids = self._model.encode(text.encode(errors="replace").decode()).ids
        out = np.full(self.context_length, self.pad_id, np.int32)
        start = self.context_length - len(ids) if self._pad_left else 0
        out[start : start + len(ids)] = ids
        return out

    def to_json(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_json` needs, the whole file included."""
        return {
            "kind": "huggingface",
            "context_length": self.context_length,
            "lowercase": self.lowercase,
            "strip_punctuation": self.strip_punctuation,
            "pad_id": self.pad_id,
            "sha256": json_digest(self._file),
            "file": self._file,
        }

    def digest(self) -> str:
        """Returns the SHA-256 of `to_json`."""
        return json_digest(self.to_json())
