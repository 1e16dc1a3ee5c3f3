"""The tokenizer files of transformers, from our tokenizers and back."""

import base64
import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.config import TextConfig, TextTowerConfig, UserError
from clipjax.data.tokenizers import Tokenizer

CONFIG, WHOLE, PIECES = "tokenizer_config.json", "tokenizer.json", "spiece.model"

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_LOWERCASE = {"type": "Lowercase"}
_ONE_SPACE = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}


def tokenizer_files(tokenizer: Tokenizer, text: TextTowerConfig) -> dict[str, bytes]:
    """Returns the files, by name, with which transformers gives the same ids.

    As there, ids are padded and cut where a call asks for it (`padding="max_length"`,
    `truncation=True`); the length is `model_max_length`. CLIP's and a trained byte-pair vocabulary
    have no token for padding: the end is repeated, which the features at the first end do not see.
    What ftfy repairs in a text stays as it is there.

    Args:
        tokenizer: of the model.
        text: of the tower that reads the ids.

    Raises:
        UserError: if there are no such files for it.
    """
    saved = tokenizer.to_json()
    write = {
        "clip": _clip,
        "bpe": _bpe,
        "sentencepiece": _sentencepiece,
        "huggingface": _huggingface,
    }.get(saved["kind"])
    if write is None:
        raise UserError(
            f"tokenizer.kind={saved['kind']!r} has no counterpart in transformers. Train with "
            "'clip', 'bpe', 'sentencepiece' or 'huggingface' to get its files."
        )
    settings, files = write(saved, text)
    settings |= {
        "model_max_length": saved["context_length"],
        # Without one the towers of SigLIP see padding, as they did in training.
        "model_input_names": ["input_ids", "attention_mask"]
        if not isinstance(text, TextConfig) or text.causal
        else ["input_ids"],
    }
    return {**files, CONFIG: _dumped(settings)}


Written = tuple[dict[str, Any], dict[str, bytes]]


def _clip(saved: Mapping[str, Any], text: TextTowerConfig) -> Written:
    from clipjax.data.tokenizers.merges import MergeTable

    table = MergeTable([tuple(merge.split(" ")) for merge in saved["merges"]])
    words = {"type": "Split", "pattern": {"Regex": _CLIP_WORDS}, "behavior": "Removed"}
    normalizers = [{"type": "NFC"}, _ONE_SPACE, *([_LOWERCASE] if saved["lowercase"] else [])]
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{**words, "invert": True}, _byte_level(prefix=False)],
        },
        "decoder": _byte_level(prefix=False),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": dict(table.ids),
            "merges": saved["merges"],
        },
    }
    # The class CLIPTokenizer always folds case.
    name = "CLIPTokenizer" if saved["lowercase"] else "PreTrainedTokenizerFast"
    return _marked(whole, len(table.ids), text, name)


def _bpe(saved: Mapping[str, Any], text: TextTowerConfig) -> Written:
    whole = json.loads(json.dumps(saved["model"]))
    return _marked(whole, saved["vocab_size"] - 2, text, "PreTrainedTokenizerFast")


def _byte_level(*, prefix: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": prefix,
        "trim_offsets": True,
        "use_regex": True,
    }


def _marked(whole: dict[str, Any], start: int, text: TextTowerConfig, name: str) -> Written:
    """Returns the files of a vocabulary whose marks have the ids `start` and `start + 1`."""
    if not isinstance(text, TextConfig) or text.pool != "eot" or not text.causal:
        raise UserError(
            "the tokenizer pads with id 0, an ordinary token, and transformers with the end of a "
            "text: the same to a causal text tower with config.text.pool='eot', but not to this "
            "one. Its tokenizer cannot be written for transformers."
        )
    marks = {_START: start, _END: start + 1}
    whole["model"]["vocab"] |= marks
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    whole["added_tokens"] = [
        {"id": i, "content": mark, **flags, "special": True} for mark, i in marks.items()
    ]
    specials = {mark: {"id": mark, "ids": [i], "tokens": [mark]} for mark, i in marks.items()}

    def template(*parts: str) -> list[dict[str, Any]]:
        return [
            {"Sequence": {"id": part, "type_id": 0}}
            if len(part) == 1
            else {"SpecialToken": {"id": part, "type_id": 0}}
            for part in parts
        ]

    whole["post_processor"] = {
        "type": "TemplateProcessing",
        "single": template(_START, "A", _END),
        "pair": template(_START, "A", _END, _END, "B", _END),
        "special_tokens": specials,
    }
    settings = {
        "tokenizer_class": name,
        "bos_token": _START,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": _END,
    }
    return settings, {WHOLE: _dumped(whole)}


def _sentencepiece(saved: Mapping[str, Any], text: TextTowerConfig) -> Written:
    """Returns the files of SiglipTokenizer.

    It takes "_" out of a text with the rest of the punctuation, where ours puts a space.
    """
    del text
    if not saved["strip_punctuation"]:
        raise UserError(
            "tokenizer.strip_punctuation=False: transformers' SiglipTokenizer always takes out "
            "punctuation, so that it would give other ids. Its tokenizer cannot be written for "
            "transformers."
        )
    model = base64.b64decode(saved["model"])
    processor = _processor(model)
    settings = {
        "tokenizer_class": "SiglipTokenizer",
        "do_lower_case": saved["lowercase"],
        "eos_token": processor.id_to_piece(saved["end_id"]),
        "unk_token": processor.id_to_piece(processor.unk_id()),
        "pad_token": processor.id_to_piece(saved["pad_id"]),
    }
    return settings, {PIECES: model}


def _processor(model: bytes) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=model)


def _huggingface(saved: Mapping[str, Any], text: TextTowerConfig) -> Written:
    """Returns the files of any `tokenizers` vocabulary; what we do before it becomes a part."""
    del text
    whole = json.loads(json.dumps(saved["file"]))
    pad_id = saved["pad_id"]
    pad = next((t["content"] for t in whole.get("added_tokens", ()) if t["id"] == pad_id), None)
    if pad is None:
        raise UserError(
            f"tokenizer.pad_id={pad_id} is no special token of the vocabulary, and transformers "
            "would treat it as one. Its tokenizer cannot be written for transformers."
        )
    before = _before(lowercase=saved["lowercase"], strip=saved["strip_punctuation"])
    own = whole.get("normalizer")
    steps = [*before, *([own] if own else [])]
    whole["normalizer"] = {"type": "Sequence", "normalizers": steps} if before else own
    left = (whole.get("padding") or {}).get("direction", "Right") == "Left"
    cut_left = (whole.get("truncation") or {}).get("direction", "Right") == "Left"
    whole["padding"] = whole["truncation"] = None
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "padding_side": "left" if left else "right",
        "truncation_side": "left" if cut_left else "right",
    }
    return settings, {WHOLE: _dumped(whole)}


def _before(*, lowercase: bool, strip: bool) -> list[dict[str, Any]]:
    """Returns the steps of `canonical_text` as `tokenizers` describes them."""
    steps: list[dict[str, Any]] = []
    if strip:
        signs = "".join(f"\\{sign}" for sign in string.punctuation if sign != "_")
        steps += [
            {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
            {"type": "Replace", "pattern": {"Regex": f"[{signs}]"}, "content": ""},
            _ONE_SPACE,
            {"type": "Strip", "strip_left": True, "strip_right": True},
        ]
    return [*steps, _LOWERCASE] if lowercase else steps


def _dumped(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False, indent=2) + "\n").encode()


def read_tokenizer(directory: Path, text: TextTowerConfig) -> Tokenizer:
    """Returns our tokenizer from the files beside a transformers model.

    Args:
        directory: with tokenizer_config.json, and tokenizer.json, merges.txt or spiece.model.
        text: of the tower that reads the ids; gives the length of a text.

    Raises:
        UserError: if there are no such files, or they cannot be used.
    """
    settings = _settings(directory / CONFIG)
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    if name == "CLIPTokenizer" and (found := _read_clip(directory, text)) is not None:
        return found
    if (directory / PIECES).is_file() and name in ("SiglipTokenizer", ""):
        return _read_sentencepiece(directory / PIECES, settings, text)
    if (directory / WHOLE).is_file():
        return _read_whole(directory / WHOLE, settings, name, text)
    raise UserError(
        f"{directory}: no tokenizer that can be read (tokenizer_class {name or 'not given'}). "
        f"Expected {WHOLE}, or merges.txt of a CLIPTokenizer, or {PIECES} of a SiglipTokenizer."
    )


def _settings(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}). Give the file as it was published.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object with fields. Give the file as published.")
    return values


def _read_clip(directory: Path, text: TextTowerConfig) -> Tokenizer | None:
    """Returns CLIP's tokenizer; None if the vocabulary is in another order than CLIP's."""
    from clipjax.data.tokenizers.clip import ClipTokenizer
    from clipjax.data.tokenizers.clip_vocabulary import read_merges

    whole, merges = directory / WHOLE, directory / "merges.txt"
    if not whole.is_file() and not merges.is_file():
        return None
    try:
        table = read_merges(str(whole if whole.is_file() else merges))
    except UserError:
        if whole.is_file():
            return None
        raise
    return ClipTokenizer(table, context_length=text.context_length)


def _read_sentencepiece(
    path: Path, settings: Mapping[str, Any], text: TextTowerConfig
) -> Tokenizer:
    from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer

    model = path.read_bytes()

    def tokenizer(pad_id: int | None) -> SentencePieceTokenizer:
        return SentencePieceTokenizer(
            model,
            context_length=text.context_length,
            lowercase=bool(settings.get("do_lower_case", True)),
            strip_punctuation=True,
            pad_id=pad_id,
        )

    made = tokenizer(None)
    pad = _token(settings, "pad_token")
    pad_id = made.end_id if pad is None else _processor(model).piece_to_id(pad)
    return made if pad_id == made.end_id else tokenizer(pad_id)


def _read_whole(
    path: Path, settings: Mapping[str, Any], name: str, text: TextTowerConfig
) -> Tokenizer:
    import tokenizers

    from clipjax.data.tokenizers.huggingface import HuggingFaceTokenizer

    siglip2 = name == "Siglip2Tokenizer"  # folds case and pads on the left by itself
    try:
        content = path.read_text(encoding="utf-8")
        model = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the package raises nothing narrower
        raise UserError(
            f"{path}: no tokenizer.json ({error!s:.100}). Give the file as it was published."
        ) from error
    pad = _token(settings, "pad_token")
    pad_id = None if pad is None else model.token_to_id(pad)
    padding = model.padding or {}
    side = settings.get("padding_side", "left" if siglip2 else padding.get("direction", "right"))
    cut = settings.get("truncation_side")
    model.enable_padding(direction=side, pad_id=padding.get("pad_id", 0))
    if cut is not None:
        model.enable_truncation(text.context_length, direction=cut)
    return HuggingFaceTokenizer(
        model.to_str(), context_length=text.context_length, lowercase=siglip2, pad_id=pad_id
    )


def _token(settings: Mapping[str, Any], name: str) -> str | None:
    value = settings.get(name)
    if isinstance(value, Mapping):  # with flags
        value = value.get("content")
    return value if isinstance(value, str) else None
