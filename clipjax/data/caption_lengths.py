"""How many tokens the caption of each example has, measured once and remembered."""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from clipjax.config import DataConfig, UsageError
from clipjax.data.captions import every_caption
from clipjax.data.decode import BadSampleError
from clipjax.data.opening import Sources
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.storage import is_remote
from clipjax.data.tokenizers import Tokenizer

_CHUNK = 1024


def check_local(sources: Sources) -> None:
    """Raises UsageError if a source is not on this machine, where measuring would fetch it all."""
    for source in sources.parts.values():
        if isinstance(source, TarShards) and is_remote(source.shard_url(0)):
            raise UsageError(
                f"{source.shard_url(0)}: config.data.text_buckets needs the length of every "
                "caption, which only shards on this machine give. Copy them, or leave it empty."
            )


def caption_lengths(
    sources: Sources, tokenizer: Tokenizer, data: DataConfig
) -> UInt16[np.ndarray, " examples"]:
    """Returns the tokens of the caption of each example, marks included; 0 where there is none.

    Of several captions the longest counts. The lengths are kept beside the shards (or in
    `data.index_dir`, or in the user's cache directory) under a name made of everything that they
    depend on: the manifest, `data.caption` and the tokenizer.
    """
    places = _places(sources, tokenizer, data)
    for place in places:
        found = _load(place, len(sources))
        if found is not None:
            return found
    lengths = np.zeros(len(sources), np.uint16)

    def measure(first: int) -> None:
        for example in range(first, min(first + _CHUNK, len(lengths))):
            lengths[example] = _longest(sources, example, tokenizer, data.caption)

    with ThreadPoolExecutor(data.threads or len(os.sched_getaffinity(0))) as pool:
        list(pool.map(measure, range(0, len(lengths), _CHUNK)))
    for place in places:
        if _save(place, lengths):
            break
    return lengths


def num_tokens(ids: np.ndarray, end_id: int) -> int:
    """Returns how many ids a text has up to its end.

    >>> num_tokens(np.array([8, 5, 9, 0]), 9), num_tokens(np.array([8, 5, 5, 5]), 9)
    (3, 4)
    """
    ends = np.flatnonzero(ids == end_id)
    return int(ends[0]) + 1 if len(ends) else len(ids)


def _longest(sources: Sources, example: int, tokenizer: Tokenizer, caption: str) -> int:
    try:
        member: Mapping[str, bytes] = sources.texts(example)
    except BadSampleError:
        return 0
    end_id = tokenizer.vocab_size - 1
    lengths = [num_tokens(tokenizer(text), end_id) for text in every_caption(member, caption)]
    return max(lengths, default=0)


def _places(sources: Sources, tokenizer: Tokenizer, data: DataConfig) -> list[Path]:
    about = [sources.digest(), data.caption, tokenizer.to_json()]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    name = f"{digest}.clipjax-lengths.npy"
    if data.index_dir is not None:
        return [Path(data.index_dir) / name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = [cache / "clipjax" / "indexes" / name]
    first = next(iter(sources.parts.values()))
    if isinstance(first, TarShards):
        places.insert(0, Path(first.shard_url(0)).parent / name)
    return places


def _load(place: Path, count: int) -> np.ndarray | None:
    try:
        with open(place, "rb") as file:
            lengths = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # absent, or damaged
    usable = isinstance(lengths, np.ndarray) and lengths.dtype == np.uint16
    return lengths if usable and lengths.shape == (count,) else None


def _save(place: Path, lengths: np.ndarray) -> bool:
    temporary = place.with_name(f".lengths-{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.save(file, lengths, allow_pickle=False)
        os.replace(temporary, place)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True
