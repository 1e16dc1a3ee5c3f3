"""From a benchmark and a place to a data set whose truth was read and checked."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.config import RemoteConfig, UserError
from clipjax.config.benchmarks import Benchmark, Kind
from clipjax.data.benchmark_folder import CLASS_NAMES, TEMPLATES, BenchmarkFolder
from clipjax.data.resize import EvaluationTransform
from clipjax.data.sources.folder import ImageFolder
from clipjax.data.sources.lists import ListedFiles
from clipjax.data.sources.opening import open_source
from clipjax.data.sources.source import Source
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.sources.tfds import TfdsSource
from clipjax.evals.dataset import Dataset, Pictures, truth_of
from clipjax.evals.places import MissingDataError, Place
from clipjax.evals.prompts import PromptFiles, Prompts, make_prompts
from clipjax.evals.tables import open_table

_KINDS = ("classification", "multilabel", "retrieval")


def open_dataset(
    benchmark: Benchmark,
    place: Place,
    transform: EvaluationTransform,
    *,
    split: str = "test",
    prompt_files: PromptFiles | None = None,
    remote: RemoteConfig | None = None,
    index_dir: str | None = None,
) -> Dataset:
    """Returns the data set of a benchmark.

    Args:
        benchmark: which.
        place: where its files are.
        transform: of the model, for the pictures.
        split: e.g. "test", or "train" for a probe.
        prompt_files: class names and templates instead of those of the data.
        remote: how servers are asked.
        index_dir: where the indexes of shards are cached; by default beside them.

    Raises:
        UserError: if a file is missing, a label is out of range, or the split is empty.
    """
    prompt_files = prompt_files or PromptFiles()
    if place.layout == "table":
        return open_table(benchmark, place.files, transform)
    folder = BenchmarkFolder(place.address, remote, index_dir)
    kind = _kind(benchmark, folder if place.layout == "shards" else None)
    needs = _needs(kind, benchmark)
    notes: list[str] = []
    try:
        if place.layout == "shards":
            source: Source = folder.open(split, needs)
        else:
            source = open_source(place.address, "", needs, index_dir=index_dir, remote=remote)
    except UserError as error:
        raise type(error)(f"{benchmark.name}: {error}") from error
    if isinstance(source, TarShards) and source.num_incomplete:
        notes.append(
            f"{source.num_incomplete:,} samples lack an image or .{', .'.join(needs)} and are not "
            f"scored; the first is {source.example_incomplete}."
        )
    if isinstance(source, TarShards) and source.damage:
        path, what = next(iter(source.damage.items()))
        notes.append(
            f"damaged shards: {len(source.damage):,}; what they lost is not scored; the first is "
            f"{path}: {what}."
        )
    texts = source.__getitem__
    if isinstance(source, TarShards | ListedFiles | ImageFolder):
        texts = source.texts
    keys = [source.key(number).rpartition(": ")[2] for number in range(len(source))]

    def read(index: int) -> bytes:
        return source[index]["image"]

    common: dict[str, Any] = {
        "name": benchmark.name,
        "kind": kind,
        "items": Pictures(len(source), read, transform, keys),
        "keys": keys,
        "notes": notes,
    }
    if kind == "retrieval":
        captions = [_captions(benchmark.name, texts(i), keys[i]) for i in range(len(source))]
        return Dataset(
            **common,
            texts=[text for of_image in captions for text in of_image],
            truth=truth_of(
                image_of_text=np.repeat(np.arange(len(captions)), [len(c) for c in captions])
            ),
        )
    prompts = _prompts(benchmark, place, folder, source, prompt_files)
    _check_folders(benchmark.name, source, prompts)
    groups = _groups(benchmark, texts, keys) if benchmark.columns else {}
    classes = len(prompts.class_names)
    if kind == "multilabel":
        targets = [_target(benchmark.name, texts(i), keys[i], classes) for i in range(len(keys))]
        truth = truth_of(target=np.array(targets))
    elif kind == "attributes":
        truth = {}
    else:
        truth = truth_of(
            label=np.array(
                [_label(benchmark.name, texts(i), keys[i], classes) for i in range(len(keys))]
            )
        )
    return Dataset(
        **common,
        prompts=prompts,
        truth={**truth, **{f"group/{name}": values for name, values in groups.items()}},
        group_names={name: benchmark.values.get(name, ()) for name in groups},
    )


def _kind(benchmark: Benchmark, folder: BenchmarkFolder | None) -> Kind:
    if benchmark.kind is not None:
        return benchmark.kind
    found = folder.kind() if folder else "classification"
    if found not in _KINDS:
        raise UserError(
            f"{benchmark.name}: dataset_type.txt holds {found!r}; expected one of "
            f"{', '.join(_KINDS)}."
        )
    return found  # type: ignore[return-value]


def _needs(kind: Kind, benchmark: Benchmark) -> tuple[str, ...]:
    label = {"retrieval": "txt", "multilabel": "npy", "attributes": "npy"}.get(kind, "cls")
    return (label, "npy") if benchmark.columns and label == "cls" else (label,)


def _prompts(
    benchmark: Benchmark,
    place: Place,
    folder: BenchmarkFolder,
    source: Source,
    files: PromptFiles,
) -> Prompts:
    """Returns the names and templates of the user, or else those that come with the data."""
    names, names_from = files.class_names(benchmark.name), files.paths[0]
    if names is None and place.layout != "tfds":
        names, names_from = _beside(place, folder, CLASS_NAMES), CLASS_NAMES
    if names is None and isinstance(source, ImageFolder | TfdsSource):
        names = [name.replace("_", " ") for name in source.class_names]
        names_from = "the names of the folders or of the builder"
    templates, templates_from = files.templates(benchmark.name, names or ()), files.paths[1]
    if templates is None and place.layout != "tfds":
        templates, templates_from = _beside(place, folder, TEMPLATES), TEMPLATES
    if names is None or templates is None:
        name, flag = (CLASS_NAMES, "--classnames") if names is None else (TEMPLATES, "--templates")
        raise MissingDataError(
            f"{benchmark.name}: has no {name} at {place.address}. Copy the published one there"
            f"{f' from {benchmark.get}' if benchmark.get else ''}, or name a file with {flag}."
        )
    source_files = " and ".join(dict.fromkeys((names_from, templates_from)))
    return make_prompts(benchmark.name, names, templates, source_files)


def _check_folders(task: str, source: Source, prompts: Prompts) -> None:
    folders = source.class_names if isinstance(source, ImageFolder) else ()
    if folders and len(folders) != len(prompts.class_names):
        raise UserError(
            f"{task}: {len(folders):,} folders and {len(prompts.class_names):,} class names "
            f"({prompts.source}). The classes are the sorted folders, of which {folders[0]!r} is "
            "the first: expected a name for each."
        )


def _beside(place: Place, folder: BenchmarkFolder, name: str) -> list[str] | None:
    """Returns the lines of a file in the folder of the data or, for files in it, around it."""
    found = folder.lines(name) if place.layout in ("shards", "folder") else None
    if found is None and place.layout in ("folder", "list"):
        found = BenchmarkFolder(os.path.dirname(place.address) or ".").lines(name)
    return found


def _label(task: str, member: Mapping[str, bytes], key: str, classes: int) -> int:
    text = member["cls"].decode(errors="replace").strip()
    if not text.isdecimal() or int(text) >= classes:
        raise UserError(
            f"{task}: {key}: label {text[:40]!r}; expected 0 to {classes - 1}, since there are "
            f"{classes} class names."
        )
    return int(text)


def _array(task: str, member: Mapping[str, bytes], key: str) -> np.ndarray:
    try:
        return np.load(io.BytesIO(member["npy"]), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{task}: {key}.npy: not an array that can be read ({error}).") from error


def _target(task: str, member: Mapping[str, bytes], key: str, classes: int) -> np.ndarray:
    array = _array(task, member, key)
    if array.shape != (classes,) or not np.isin(array, (0, 1)).all():
        raise UserError(
            f"{task}: {key}.npy: array of shape {array.shape}; expected a 0 or 1 for each of the "
            f"{classes} classes."
        )
    return array.astype(bool)


def _captions(task: str, member: Mapping[str, bytes], key: str) -> list[str]:
    lines = [line.strip() for line in member["txt"].decode(errors="replace").splitlines()]
    if not any(lines):
        raise UserError(f"{task}: {key}.txt: holds no caption; expected one a line.")
    return [line for line in lines if line]


def _groups(
    benchmark: Benchmark, texts: Callable[[int], Mapping[str, bytes]], keys: Sequence[str]
) -> dict[str, np.ndarray]:
    rows = []
    for number, key in enumerate(keys):
        array = _array(benchmark.name, texts(number), key)
        if array.shape != (len(benchmark.columns),):
            raise UserError(
                f"{benchmark.name}: {key}.npy: array of shape {array.shape}; expected "
                f"{', '.join(benchmark.columns)}."
            )
        rows.append(array.astype(np.int64))
    table = np.stack(rows)
    return {name: table[:, column] for column, name in enumerate(benchmark.columns)}
