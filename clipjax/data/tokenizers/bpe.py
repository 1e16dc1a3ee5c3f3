"""Byte-pair encoding trained on the captions of the run itself.

Source: Sennrich et al. 2015, https://arxiv.org/abs/1508.07909; on bytes: Radford et al. 2019,
"Language Models are Unsupervised Multitask Learners", section 2.2.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from clipjax.config.errors import UserError
from clipjax.data.tokenizers.digest import json_digest
from clipjax.data.tokenizers.frame import frame

_LEAST_VOCAB = 256 + 2


class BpeTokenizer:
    """Byte-level BPE of Hugging Face `tokenizers` inside CLIP's frame.

    The last two ids of the vocabulary start and end a text, however many merges the captions
    gave; ids in between may stay unused.
    """

    def __init__(self, model: tokenizers.Tokenizer, *, context_length: int, vocab_size: int):
        self._model = model
        self.context_length, self.vocab_size = context_length, vocab_size

    @classmethod
    def train(
        cls, captions: Iterable[str], *, context_length: int, vocab_size: int, lowercase: bool
    ) -> "BpeTokenizer":
        """Learns the merges.

        Raises:
            UserError: if `vocab_size` has no room for the 256 bytes and the two marks.
        """
        if vocab_size < _LEAST_VOCAB:
            raise UserError(
                f"config.model.text.vocab_size={vocab_size}: a byte-level BPE needs at least "
                f"{_LEAST_VOCAB}."
            )
        model = tokenizers.Tokenizer(models.BPE())
        steps: list[Any] = [normalizers.NFC(), normalizers.Strip()]
        if lowercase:
            steps.append(normalizers.Lowercase())
        model.normalizer = normalizers.Sequence(steps)  # type: ignore[assignment]
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
        model.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        model.train_from_iterator(captions, trainer)
        return cls(model, context_length=context_length, vocab_size=vocab_size)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "BpeTokenizer":
        """Returns the tokenizer that `to_json` described."""
        model = tokenizers.Tokenizer.from_str(json.dumps(saved["model"]))
        return cls(model, context_length=saved["context_length"], vocab_size=saved["vocab_size"])

    def __call__(self, text: str) -> np.ndarray:
        """Returns int32 [context_length] ids."""
        return frame(self._model.encode(text).ids, self.context_length, self.vocab_size)

    def to_json(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_json` needs."""
        return {
            "kind": "bpe",
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "model": json.loads(self._model.to_str()),
        }

    def digest(self) -> str:
        """Returns the SHA-256 of `to_json`."""
        return json_digest(self.to_json())
