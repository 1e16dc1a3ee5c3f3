"""Where the merges of CLIP's vocabulary come from: a file, or a package that carries them."""

import gzip
import importlib
import importlib.util
import itertools
import json
import zlib
from collections.abc import Iterator
from typing import Any

from clipjax.config.errors import UserError
from clipjax.data.tokenizers.merges import (
    END_OF_WORD,
    FIRST_MERGE,
    Merge,
    MergeTable,
    apply_merges,
    byte_order,
    byte_symbols,
)

# Of OpenAI's 48,894 merges, one a line, without the first line of the file.
OPENAI_SHA256 = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
_OPENAI_MERGES = 49_152 - 256 - 2  # the file holds more, which CLIP does not use
_GZIP = b"\x1f\x8b"
_GIVE_PATH = (
    "give tokenizer.path a bpe_simple_vocab_16e6.txt.gz or the tokenizer.json of a CLIP model"
)

# Bytes that make whole characters of symbols which begin or end within one. No others are needed:
# without one of these the hash above is not met.
_OPENINGS = (b"", b"\xf0\x9f", b"\xf0\x9f\x98")
_ENDINGS = (b"", b"\x80", b"\x80\x80")


def find_merges(path: str) -> MergeTable:
    """Returns the merges in a file, or without one those of an installed package.

    Args:
        path: of the file; empty for none.

    Raises:
        UserError: if it cannot be used, or there is no package either.
    """
    if path:
        return read_merges(path)
    if importlib.util.find_spec("instant_clip_tokenizer") is None:
        raise UserError(
            f"tokenizer.kind='clip' needs CLIP's vocabulary: {_GIVE_PATH}, or pip install "
            "'clipjax[clip-vocabulary]' (Python 3.11 and 3.12)."
        )
    return packaged_merges()


def read_merges(path: str) -> MergeTable:
    """Returns the merges in a `tokenizer.json` or in a list with one merge a line, after a title.

    Raises:
        UserError: if the file cannot be read or holds something else.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
        text = content.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"config.tokenizer.path={path}: cannot be read ({error}); {_GIVE_PATH}."
        ) from error
    try:
        if text.lstrip().startswith("{"):
            return _from_json(text)
        merges = [_pair(line) for line in text.split("\n")[1 : 1 + _OPENAI_MERGES] if line.strip()]
        if not merges:
            raise UserError("no merges in it")
        return MergeTable(merges)
    except UserError as error:
        problem = str(error).removesuffix(".")
        raise UserError(f"config.tokenizer.path={path}: {problem}; {_GIVE_PATH}.") from error


def _pair(merge: Any) -> Merge:
    parts = merge.split() if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) for p in parts):
        raise UserError(f"{merge!r:.60} is no merge of two symbols")
    return (parts[0], parts[1])


def _from_json(text: str) -> MergeTable:
    try:
        model = json.loads(text)["model"]
        vocab, merges, end = model["vocab"], model["merges"], model["end_of_word_suffix"]
        if end != END_OF_WORD or not isinstance(vocab, dict) or not isinstance(merges, list):
            raise ValueError(f"end_of_word_suffix={end!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"no byte-pair model with ends of words in it ({error})") from error
    table = MergeTable([_pair(merge) for merge in merges])
    marks = {name: i for name, i in vocab.items() if name not in table.ids}
    same = all(vocab.get(symbol) == i for symbol, i in table.ids.items())
    first = FIRST_MERGE + len(table.merges)
    if not same or sorted(marks.values()) != [first, first + 1]:
        raise UserError(
            "its ids are not CLIP's (bytes, bytes at an end, merges, two marks): use "
            "tokenizer.kind='huggingface'"
        )
    return table


def packaged_merges() -> MergeTable:
    """Returns the merges that `instant_clip_tokenizer` applies, found through what it decodes.

    The package shows no table. It decodes every id, though, and what the earlier merges make of a
    symbol are the two parts of the merge that made it.

    Raises:
        UserError: if the result is not OpenAI's vocabulary.
    """
    package: Any = importlib.import_module("instant_clip_tokenizer")
    symbols = _decoded_symbols(package.Tokenizer())
    base = [byte_symbols()[byte] for byte in byte_order()]
    names = base + [symbol + END_OF_WORD for symbol in base]
    ids = {name: i for i, name in enumerate(names)}
    ranks: dict[tuple[int, int], int] = {}
    merges: list[Merge] = []
    for rank, symbol in enumerate(symbols):
        body = symbol.removesuffix(END_OF_WORD)
        start = [ids[sign] for sign in body]
        if body != symbol:
            start[-1] = ids[body[-1] + END_OF_WORD]
        parts = apply_merges(start, ranks)
        if len(parts) != 2:
            break
        ranks[parts[0], parts[1]] = rank
        merges.append((names[parts[0]], names[parts[1]]))
        names.append(symbol)
    table = MergeTable(merges)
    if table.digest() != OPENAI_SHA256:
        raise UserError(
            "the installed instant-clip-tokenizer holds another vocabulary than OpenAI's: "
            f"{_GIVE_PATH}."
        )
    return table


def _decoded_symbols(package: Any) -> Iterator[str]:
    """Yields the symbol that each merge makes."""
    byte_ids = {byte: i for i, byte in enumerate(byte_order())}
    for i in range(FIRST_MERGE, FIRST_MERGE + _OPENAI_MERGES):
        for opening, ending in itertools.product(_OPENINGS, _ENDINGS):
            inside = [*(byte_ids[b] for b in opening), i, *(byte_ids[b] for b in ending)]
            text = package.decode(inside)
            if "\ufffd" not in text:
                break
        else:
            # Broken however it is completed: the replacement character itself.
            opening, ending, text = b"", b"", package.decode([i])
        content = text.removesuffix(" ").encode()
        content = content[len(opening) : len(content) - len(ending)]
        at_end = END_OF_WORD if text.endswith(" ") else ""
        yield "".join(byte_symbols()[byte] for byte in content) + at_end
