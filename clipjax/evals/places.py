"""Where the files of a benchmark are, below what --data names."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from clipjax.config import RemoteConfig, UserError
from clipjax.config.benchmarks import Benchmark
from clipjax.data.benchmark_folder import CLASS_NAMES, BenchmarkFolder
from clipjax.data.sources.lists import LIST_SUFFIXES
from clipjax.data.sources.tfds import TFDS_PREFIX
from clipjax.data.storage import is_remote

Layout = Literal["shards", "table", "folder", "list", "tfds"]
_SLOT = "{dataset}"
_SPLITS = frozenset({"train", "val", "valid", "validation", "test"})
_TFDS = {
    "imagenet1k": "imagenet2012:validation",
    "imagenetv2": "imagenet_v2",
    "imagenet-a": "imagenet_a",
    "imagenet-r": "imagenet_r",
    "cars": "cars196",
    "food101": "food101:validation",
    "flowers": "oxford_flowers102",
    "pets": "oxford_iiit_pet",
    "svhn": "svhn_cropped",
    "pcam": "patch_camelyon",
}
"""Names of TFDS, and splits, where they are others."""


class MissingDataError(UserError):
    """A data set that is not there; the text says what to get and where to put it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A data set that was found.

    Attributes:
        layout: shards: CLIP_benchmark's; table: rows with pictures (Parquet, JSON); folder: a
            folder a class, for each split or not; list: a CSV of paths; tfds: a builder.
        address: of the folder, the file or the builder.
        files: of a table.
    """

    layout: Layout
    address: str
    files: Sequence[Path] = ()


def find(
    benchmark: Benchmark,
    root: str,
    split: str,
    *,
    only: bool = False,
    remote: RemoteConfig | None = None,
) -> Place:
    """Returns where a benchmark is.

    Args:
        benchmark: which.
        root: folder or URL with a folder for each task, e.g. `wds_vtab-cifar100_test` as DataComp
            downloads them, `wds_vtab-cifar100` or `vtab/cifar100`; with `{dataset}` in it, the
            folder of the task itself; `tfds:` for data sets that TFDS has prepared in its own
            folder, or of a single task `tfds:NAME:SPLIT`.
        split: e.g. "test".
        only: whether it is the only task, so that `root` may be its folder.
        remote: how a server is asked.

    Raises:
        MissingDataError: if it is not there, or has no such split.
    """
    tag = f" Get it from {benchmark.get}." if benchmark.get else ""
    if not root:
        raise MissingDataError(
            f"{benchmark.name}: --data is missing: the folder or URL where the data sets are.{tag}"
        )
    tried = addresses(benchmark, root)
    if root.startswith(TFDS_PREFIX):
        address = tried[0] if tried[0].count(":") > 1 else f"{tried[0]}:{split}"
        return Place(layout="tfds", address=address)
    for address in [*tried, root] if only and _SLOT not in root else tried:
        found = _look_at(address, benchmark, split, remote)
        if found is not None:
            return found
    raise MissingDataError(
        f"{benchmark.name}: not below --data={root!r}.{tag} Put it at {tried[0]}, so that there is "
        f"{tried[0]}/{split}/nshards.txt beside {CLASS_NAMES} (CLIP_benchmark's layout), or give a "
        "folder a class, a CSV or Parquet files there."
    )


def addresses(benchmark: Benchmark, root: str) -> list[str]:
    """Returns where a benchmark may be, the likeliest first.

    >>> addresses(Benchmark(name="vtab/dtd", title="DTD"), "/data")[:2]
    ['/data/wds_vtab-dtd_test', '/data/wds_vtab-dtd']
    >>> addresses(Benchmark(name="vtab/dtd", title="DTD"), "/data/wds_{dataset}_test")
    ['/data/wds_vtab-dtd_test']
    """
    name = benchmark.name.removeprefix("fairness/")
    clean = name.replace("/", "-")
    if _SLOT in root:
        return [root.replace(_SLOT, clean)]
    if root.startswith(TFDS_PREFIX):
        last = name.rpartition("/")[2]
        return [f"{TFDS_PREFIX}{_TFDS.get(last, last)}" if root == TFDS_PREFIX else root]
    base = root.rstrip("/")
    names = [f"wds_{clean}_test", f"wds_{clean}", *benchmark.folders, name, clean, benchmark.name]
    names += [f"wds_{folder}{end}" for folder in benchmark.folders for end in ("_test", "")]
    return [f"{base}/{one}" for one in dict.fromkeys(names)]


def _look_at(
    address: str, benchmark: Benchmark, split: str, remote: RemoteConfig | None
) -> Place | None:
    if is_remote(address):
        found = BenchmarkFolder(address, remote).exists(split)
        return Place(layout="shards", address=address) if found else None
    if os.path.isfile(os.path.join(address, split, "nshards.txt")):
        return Place(layout="shards", address=address)
    path = Path(address)
    for suffix in LIST_SUFFIXES:
        beside = path.with_name(path.name + suffix)
        if beside.is_file():
            _check_unsplit(benchmark, str(beside), split)
            return Place(layout="list", address=str(beside))
    if not path.is_dir():
        return None
    files = _table_files(path, benchmark, split)
    if files:
        return Place(layout="table", address=address, files=files)
    return _class_folders(path, benchmark, split)


def _class_folders(path: Path, benchmark: Benchmark, split: str) -> Place | None:
    """Returns a folder with a folder a class, of the split or, without splits, itself."""
    inner = _folders(path / split)
    if inner:
        return Place(layout="folder", address=str(path / split))
    inner = _folders(path)
    if not inner or any((path / one / split / "nshards.txt").is_file() for one in inner):
        return None  # a folder of data sets
    if _SPLITS.issuperset(inner):
        raise MissingDataError(
            f"{benchmark.name}: {path} has no split {split!r}; found {', '.join(inner)}. Put the "
            f"files of the split at {path / split}, or name another with --split."
        )
    _check_unsplit(benchmark, str(path), split)
    return Place(layout="folder", address=str(path))


def _check_unsplit(benchmark: Benchmark, address: str, split: str) -> None:
    """Raises MissingDataError if another split is wanted of files that have none."""
    if split != "test":
        raise MissingDataError(
            f"{benchmark.name}: {address} has no splits, so all of it is the split test; expected "
            f"{split!r}."
        )


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    return sorted(one.name for one in path.iterdir() if one.is_dir() and one.name[0] != ".")


def _table_files(folder: Path, benchmark: Benchmark, split: str) -> list[Path]:
    """Returns the files of a table in a folder: of a language or subset, or of a split."""
    part = benchmark.name.rpartition("/")[2]
    for pattern in (f"{part}.json", f"*-{part}.json", f"{split}.jsonl", "examples.jsonl"):
        found = sorted(folder.glob(pattern)) or sorted(folder.glob(f"data/{pattern}"))
        if found:
            return found[:1]
    for pattern in (f"{split}*.parquet", f"data/{split}*.parquet", f"{split}/*.parquet"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    return sorted(folder.glob("*.parquet"))
