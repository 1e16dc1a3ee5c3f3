"""From the config of a task to the task, with its data checked before anything is computed."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from clipjax.config import DataConfig, DualEncoderConfig, EvalsConfig, TaskConfig, UserError
from clipjax.data.captions import caption_members, choose_caption
from clipjax.data.decode import BadSampleError
from clipjax.data.opening import open_address
from clipjax.data.resize import EvaluationTransform
from clipjax.data.sources.source import Source
from clipjax.data.sources.tar_shards import TarShards
from clipjax.evals.estimate import Estimate
from clipjax.evals.protocol import Encoders
from clipjax.evals.retrieval import Retrieval
from clipjax.evals.zeroshot import ZeroShotClassification


@runtime_checkable
class Task(Protocol):
    """Something that scores a model."""

    def run(self, encode: Encoders) -> dict[str, Estimate]:
        """Returns its scores by metric."""
        ...


class ShardImages:
    """The pictures of shards, through the evaluation transform of a model."""

    def __init__(self, source: Source, max_pixels: int, transform: EvaluationTransform):
        self.source, self._max_pixels, self._transform = source, max_pixels, transform

    def __len__(self) -> int:
        return len(self.source)

    def fill(self, index: int, out: np.ndarray) -> None:
        """Writes picture `index` into `out`.

        Raises:
            UserError: if it does not decode: an evaluation skips nothing.
        """
        try:
            self._transform.of_file(self.source[index]["image"], self._max_pixels, out)
        except BadSampleError as error:
            raise UserError(
                f"{self.source.key(index)}: {error}. An evaluation counts every sample: mend the "
                "shard or take the sample out."
            ) from error


def make_tasks(
    evals: EvalsConfig,
    data: DataConfig,
    model: DualEncoderConfig,
    *,
    say: Callable[[str], None] | None = None,
) -> dict[str, Task]:
    """Returns the tasks by name.

    Args:
        evals: which tasks.
        data: where their files are.
        model: how the pictures are cut and resized for it.
        say: is told which samples are not scored, since a file of theirs is missing.

    Raises:
        UserError: if a file is missing, a split is empty or a label is out of range.
    """
    say = say or (lambda _: None)
    transform = EvaluationTransform.of(model)
    tasks = {}
    for name, task in evals.tasks.items():
        where = f"config.evals.tasks.{name}"
        source = _source(where, task, data, say)
        images = ShardImages(source, data.max_image_pixels, transform)
        make = _retrieval if task.kind == "retrieval" else _zeroshot
        tasks[name] = make(where, task, images, data.root, evals.bootstrap_resamples)
    return tasks


def _source(where: str, task: TaskConfig, data: DataConfig, say: Callable[[str], None]) -> Source:
    needs = ("cls",) if task.kind == "zeroshot" else caption_members(task.caption)
    try:
        source = open_address(task.shards, data, needs)
    except UserError as error:
        raise UserError(f"{where}: {str(error).replace('data.shards', 'shards')}") from error
    if isinstance(source, TarShards) and source.num_incomplete:
        say(
            f"{where}: {source.num_incomplete:,} samples lack an image or .{', .'.join(needs)} and "
            f"are not scored; the first is {source.example_incomplete}."
        )
    return source


def _retrieval(
    where: str, task: TaskConfig, images: ShardImages, root: str, resamples: int
) -> Retrieval:
    source = images.source
    captions = [_caption(source, i, task.caption) for i in range(len(source))]
    candidates = _lines(where, "candidates", root, task.candidates) if task.candidates else []
    return Retrieval(images=images, captions=captions, candidates=candidates, resamples=resamples)


def _zeroshot(
    where: str, task: TaskConfig, images: ShardImages, root: str, resamples: int
) -> ZeroShotClassification:
    source = images.source
    names = _lines(where, "classnames", root, task.classnames)
    return ZeroShotClassification(
        images=images,
        labels=np.array([_label(source, i, len(names)) for i in range(len(source))]),
        class_names=names,
        templates=_templates(where, root, task.templates),
        resamples=resamples,
    )


def _lines(where: str, field: str, root: str, name: str) -> list[str]:
    path = Path(os.path.join(root, name))
    if not name or not path.is_file():
        raise UserError(f"{where}.{field}={name!r}: no such file below data.root={root!r}.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").strip().splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{where}.{field}={name!r}: not UTF-8 text ({error}).") from error
    if not lines:
        raise UserError(f"{where}.{field}={name!r}: the file is empty; expected one entry a line.")
    if field == "classnames" and "" in lines:
        raise UserError(
            f"{where}.classnames={name!r}: line {lines.index('') + 1} is blank, so the labels "
            "behind it would be off by one. Name the class or take the line out."
        )
    return [line for line in lines if line]


def _templates(where: str, root: str, name: str) -> list[str]:
    templates = _lines(where, "templates", root, name) if name else ["{c}"]
    bad = [template for template in templates if "{c}" not in template]
    if bad:
        raise UserError(f"{where}.templates={name!r}: {bad[:1]} has no {{c}} for the class name.")
    return templates


def _label(source: Source, index: int, classes: int) -> int:
    text = source[index]["cls"].decode(errors="replace").strip()
    if not text.isdecimal() or int(text) >= classes:
        raise UserError(
            f"{source.key(index)}: label {text!r}; expected a line number of the class names, 0 to "
            f"{classes - 1}."
        )
    return int(text)


def _caption(source: Source, index: int, where: str) -> str:
    try:
        return choose_caption(source[index], where)
    except BadSampleError as error:
        raise UserError(f"{source.key(index)}: {error}.") from error


def flat_metrics(results: Mapping[str, Mapping[str, Estimate]]) -> dict[str, float]:
    """Returns {"eval/TASK/METRIC": value} for the log of a run."""
    return {
        f"eval/{task}/{metric}": estimate.value
        for task, scores in results.items()
        for metric, estimate in scores.items()
    }
