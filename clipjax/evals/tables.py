"""Benchmarks that are published as tables: captions, pairs of pictures, associations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.config import UserError
from clipjax.config.benchmarks import Benchmark
from clipjax.data.image_table import ImageTable
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.dataset import Dataset, Pictures, truth_of


def open_table(
    benchmark: Benchmark, files: Sequence[Path], transform: EvaluationTransform
) -> Dataset:
    """Returns the data set of a table.

    Args:
        benchmark: which.
        files: of the table.
        transform: of the model, for the pictures.

    Raises:
        UserError: if a column is missing, the rows differ in shape, or the benchmark is of a kind
            that has no table.
    """
    if benchmark.kind == "association":
        return _associations(benchmark, files, transform)
    if benchmark.kind == "selection":
        return _selections(benchmark, files, transform)
    if benchmark.kind in (None, "retrieval"):
        return _captioned(benchmark, files, transform)
    raise UserError(
        f"{benchmark.name}: {files[0]} is a table, and {benchmark.kind} is read from shards in "
        "CLIP_benchmark's layout, a folder a class, or a CSV."
    )


def _captioned(
    benchmark: Benchmark, files: Sequence[Path], transform: EvaluationTransform
) -> Dataset:
    table = ImageTable(files, ["image"])
    captions = [_listed(value) for value in table.column("caption")]
    empty = [row for row, texts in enumerate(captions) if not texts]
    if empty:
        raise UserError(f"{benchmark.name}: {files[0]}: row {empty[0] + 1} has no caption.")
    return Dataset(
        name=benchmark.name,
        kind="retrieval",
        items=Pictures(len(table), lambda row: table.image(row, "image"), transform),
        keys=_keys(table, len(table)),
        texts=[text for texts in captions for text in texts],
        truth=truth_of(image_of_text=np.repeat(np.arange(len(table)), [len(t) for t in captions])),
    )


def _selections(
    benchmark: Benchmark, files: Sequence[Path], transform: EvaluationTransform
) -> Dataset:
    """Winoground: two pictures and their captions; SugarCrepe: a picture, its caption, a wrong one.

    Sources: Thrush et al. 2022, https://arxiv.org/abs/2204.03162; Hsieh et al. 2023,
    https://arxiv.org/abs/2306.14610.
    """
    pairs = benchmark.name == "winoground"
    images = ["image_0", "image_1"] if pairs else ["filename"]
    names = ["caption_0", "caption_1"] if pairs else ["caption", "negative_caption"]
    table = ImageTable(files, images)
    columns = [table.column(name) for name in names]
    each = len(images)

    def read(item: int) -> bytes:
        return table.image(item // each, images[item % each])

    return Dataset(
        name=benchmark.name,
        kind="selection",
        items=Pictures(len(table) * each, read, transform),
        keys=[f"{key}/{number}" for key in _keys(table, len(table)) for number in range(each)],
        texts=[str(text) for row in zip(*columns, strict=True) for text in row],
        truth=truth_of(images_each=each, texts_each=len(names)),
    )


def _associations(
    benchmark: Benchmark, files: Sequence[Path], transform: EvaluationTransform
) -> Dataset:
    """WinoGAViL: which candidates go with a cue; Bitton et al. 2022, arXiv:2207.12576."""
    table = ImageTable(files, ["candidate_images"])
    candidates = [_listed(value) for value in table.column("candidates")]
    right = [_listed(value) for value in table.column("associations")]
    sizes = [len(row) for row in candidates]
    instance = np.repeat(np.arange(len(table)), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])

    def read(item: int) -> bytes:
        return table.image(int(instance[item]), "candidate_images", int(place[item]))

    keys = _keys(table, len(table))
    return Dataset(
        name=benchmark.name,
        kind="association",
        items=Pictures(len(instance), read, transform),
        keys=[f"{keys[i]}/{candidates[i][j]}" for i, j in zip(instance, place, strict=True)],
        texts=[_cue(str(cue)) for cue in table.column("cue")],
        truth=truth_of(
            instance=instance,
            right=[candidates[i][j] in right[i] for i, j in zip(instance, place, strict=True)],
        ),
    )


def _cue(cue: str) -> str:
    """Returns the text of a cue as DataComp writes it.

    >>> _cue("Owl"), _cue("tree")
    ('An owl', 'A tree')
    """
    lower = cue.lower()
    return f"{'An' if lower[:1] in tuple('aeiou') else 'A'} {lower}"


def _listed(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping) or value is None:
        return []
    return [str(one) for one in value]


def _keys(table: ImageTable, count: int) -> list[str]:
    for name in ("id", "imgid", "img_id", "ID"):
        if name in table.columns:
            found = [str(value) for value in table.column(name)]
            if len(set(found)) == count:
                return found
    return [f"{row:06d}" for row in range(count)]
