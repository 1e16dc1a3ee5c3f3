"""A SentencePiece model as tokenizer, in SigLIP's frame.

Source: Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226; the frame: Zhai et al. 2023,
https://arxiv.org/abs/2303.15343.
"""

import base64
import hashlib
from typing import Any

import numpy as np

from clipjax.config.errors import UserError
from clipjax.data.tokenizers.canonical import canonical_text
from clipjax.data.tokenizers.digest import check_vocabulary, json_digest

_OTHER_MODEL = "Give the .model file of a SentencePiece vocabulary."


class SentencePieceTokenizer:
    """Pieces, one end id that long texts keep, and padding; no start id.

    Args:
        model: content of a .model file.
        context_length: ids of a text, the end included.
        lowercase: fold case before the pieces are looked up.
        strip_punctuation: take out ASCII punctuation before.
        pad_id: fills a row after its end; None for the end id, as SigLIP does.

    Raises:
        UserError: if the package is missing or the model cannot be used.
    """

    def __init__(
        self,
        model: bytes,
        *,
        context_length: int,
        lowercase: bool = True,
        strip_punctuation: bool = False,
        pad_id: int | None = None,
    ):
        self._model, self._processor = model, _load(model)
        self.context_length, self.vocab_size = context_length, self._processor.vocab_size()
        self.lowercase, self.strip_punctuation = lowercase, strip_punctuation
        self.end_id = self._processor.eos_id()
        if self.end_id < 0:
            raise UserError(f"the vocabulary has no id for the end of a text. {_OTHER_MODEL}")
        self.pad_id = self.end_id if pad_id is None else pad_id

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "SentencePieceTokenizer":
        """Returns the tokenizer that `to_json` described.

        Raises:
            UserError: if the vocabulary is not the one that was saved, or the package is missing.
        """
        model = base64.b64decode(saved["model"])
        check_vocabulary(saved, hashlib.sha256(model).hexdigest())
        return cls(
            model,
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
        # A lone surrogate is no character: it has no UTF-8, which the pieces are made of.
        ids = self._processor.encode(text.encode(errors="replace").decode())
        ids = ids[: self.context_length - 1]
        out = np.full(self.context_length, self.pad_id, np.int32)
        out[: len(ids) + 1] = [*ids, self.end_id]
        return out

    def to_json(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_json` needs, the whole model included."""
        return {
            "kind": "sentencepiece",
            "context_length": self.context_length,
            "lowercase": self.lowercase,
            "strip_punctuation": self.strip_punctuation,
            "pad_id": self.pad_id,
            "end_id": self.end_id,
            "sha256": hashlib.sha256(self._model).hexdigest(),
            "model": base64.b64encode(self._model).decode(),
        }

    def digest(self) -> str:
        """Returns the SHA-256 of `to_json`."""
        return json_digest(self.to_json())


def _load(model: bytes) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            "the package sentencepiece is not installed. tokenizer.kind='sentencepiece' needs pip "
            "install 'clipjax[sentencepiece]'."
        ) from error
    processor = sentencepiece.SentencePieceProcessor()
    try:
        if not model:
            raise RuntimeError("it is empty")
        processor.load_from_serialized_proto(model)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"no SentencePiece model ({reason}). {_OTHER_MODEL}") from error
    return processor
