"""Distributions of sizes, captions and scores of a sample of a data set."""

import collections
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.config.errors import UserError
from clipjax.core.progress import Progress
from clipjax.data.captions import choose_caption
from clipjax.data.decode import BadSampleError
from clipjax.data.image_header import read_header
from clipjax.data.ordered_map import ordered_map
from clipjax.data.reshard import Drops
from clipjax.data.sources.source import Source

QUANTILES = {"p1": 0.01, "p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
LANGUAGE_FIELDS = ("language", "lang", "detected_language")

_SCORES = re.compile("similarity|score|aesthetic|unsafe|watermark|nsfw", re.IGNORECASE)
_MOST_SCORES = 6


@dataclasses.dataclass(frozen=True)
class Distributions:
    """What was measured, by name.

    Attributes:
        numbers: one array a quantity, of the samples that have it.
        names: how often each value of "format" and "language" occurs.
        distinct_captions: number of captions that differ.
        bad: number of samples that could not be used, by reason.
        seen: samples that were looked at.
    """

    numbers: Mapping[str, np.ndarray]
    names: Mapping[str, Mapping[str, int]]
    distinct_captions: int
    bad: Mapping[str, int]
    seen: int

    def figures(self) -> dict[str, Any]:
        """Returns them as JSON: quantiles, mean, smallest and largest of each quantity."""
        return {
            "seen": self.seen,
            "bad": dict(self.bad),
            "distinct_captions": self.distinct_captions,
            **{name: dict(counts) for name, counts in self.names.items()},
            "distributions": {name: summary(values) for name, values in self.numbers.items()},
        }


def measure(
    source: Source, *, caption: str = "txt", samples: int = 10_000, threads: int = 8
) -> Distributions:
    """Measures `samples` samples of a source, evenly spread over it.

    Args:
        source: gives the image, the member of the caption, and "json" if it has one.
        caption: "txt" or "json.FIELD"; of a list the first is taken.
        samples: at most so many are read.
        threads: that read.

    Raises:
        UserError: if none of them can be used.
    """
    drops = Drops()
    indices = evenly_spread(len(source), samples)

    def one(index: int) -> tuple[dict[str, Any], str] | None:
        try:
            sample = source[index]
            return measure_sample(sample, caption), choose_caption(sample, caption)
        except BadSampleError as error:
            drops.add(source.key(index), error)
            return None

    numbers: dict[str, list[float]] = collections.defaultdict(list)
    names: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    captions = set()
    with Progress("measuring", len(indices)) as progress:
        for found in ordered_map(one, indices, threads=threads):
            progress.advance(detail=drops.said())
            if found is None:
                continue
            captions.add(hashlib.sha256(found[1].encode()).digest()[:8])
            for name, value in found[0].items():
                if isinstance(value, str):
                    names[name][value] += 1
                else:
                    numbers[name].append(value)
    if not captions:
        raise UserError(f"no sample of {len(indices):,} can be used: {drops.example}.")
    return Distributions(
        {name: np.array(values) for name, values in _without_rare_scores(numbers).items()},
        {name: dict(counts.most_common()) for name, counts in names.items()},
        len(captions),
        dict(sorted(drops.by_reason.items())),
        len(indices),
    )


def measure_sample(sample: Mapping[str, bytes], caption: str) -> dict[str, float | str]:
    """Returns the quantities of one sample: numbers, and "format" and "language" as text.

    Raises:
        BadSampleError: if its image or its caption cannot be used.
    """
    text = choose_caption(sample, caption)
    header = read_header(sample["image"])
    pixels, size = header.width * header.height, len(sample["image"])
    out: dict[str, float | str] = {
        "format": header.suffix,
        "width": float(header.width),
        "height": float(header.height),
        "aspect": header.width / header.height,
        "megapixels": pixels / 1e6,
        "file bytes": float(size),
        "bits per pixel": 8 * size / pixels,
        "caption characters": float(len(text)),
        "caption words": float(len(text.split())),
        "caption bytes": float(len(text.encode())),
    }
    return out | _json_quantities(sample.get("json", b"{}"))


def evenly_spread(count: int, wanted: int) -> list[int]:
    """Returns at most `wanted` different indices below `count`, ends included.

    >>> evenly_spread(100, 4), evenly_spread(3, 10)
    ([0, 33, 66, 99], [0, 1, 2])
    """
    places = np.linspace(0, count - 1, min(count, wanted))
    return np.unique(np.rint(places).astype(np.int64)).tolist()


def summary(values: np.ndarray) -> dict[str, int | float]:
    """Returns count, mean, min, max and the QUANTILES of numbers."""
    quantiles = np.quantile(values, list(QUANTILES.values())).tolist()
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "min": float(values.min()),
        **dict(zip(QUANTILES, quantiles, strict=True)),
        "max": float(values.max()),
    }


def _json_quantities(content: bytes) -> dict[str, float | str]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(fields, dict):
        return {}
    out: dict[str, float | str] = {}
    for name, value in fields.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float) and _SCORES.search(name):
            if math.isfinite(number := _as_float(value)):
                out[f"json {name}"] = number
        elif isinstance(value, str) and name.lower() in LANGUAGE_FIELDS:
            out["language"] = value[:20]
    return out


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _without_rare_scores(numbers: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Returns the quantities with only the most frequent of those that a json names."""
    scores = sorted(
        (name for name in numbers if name.startswith("json ")), key=lambda name: -len(numbers[name])
    )
    left_out = set(scores[_MOST_SCORES:])
    return {name: values for name, values in numbers.items() if name not in left_out}
