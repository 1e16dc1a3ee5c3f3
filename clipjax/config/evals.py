"""What is measured, in training and by `clipjax evaluate`."""

import dataclasses
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One zero-shot task; paths are relative to `data.root`.

    Attributes:
        kind: zeroshot (classification by prompts) or retrieval (recall@k both ways).
        shards: patterns of WebDataset shards.
        classnames: zeroshot: file with one class name a line; line i is the label i of `.cls`.
        templates: zeroshot: file with one prompt a line, `{c}` standing for the class name.
        caption: retrieval: "txt" or "json.FIELD"; the first of a list.
        candidates: retrieval: file with further captions, one a line, among which the caption of
            an image is to be found; empty for the captions of the task's own pairs only.
    """

    kind: Literal["zeroshot", "retrieval"] = "retrieval"
    shards: str = ""
    classnames: str = ""
    templates: str = ""
    caption: str = "txt"
    candidates: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalsConfig:
    """The tasks and when they run.

    Attributes:
        every_steps: steps between evaluations in training; 0 for only after the last step.
        batch_size: pictures or texts of one compiled call over all devices.
        bootstrap_resamples: resamples behind each 95 % interval.
        tasks: by name; the name is the prefix of the metrics.
        suite: further tasks: a list of `clipjax evaluate --suite`, its path, or names of tasks with
            commas between them; e.g. "quick", which needs no files.
        suite_data: where the data of the suite are, as `--data` of `clipjax evaluate`.
    """

    every_steps: int = 0
    batch_size: int = 256
    bootstrap_resamples: int = 2000
    tasks: Mapping[str, TaskConfig] = dataclasses.field(default_factory=dict)
    suite: str = ""
    suite_data: str = ""

    def __post_init__(self):
        if self.batch_size < 1 or self.bootstrap_resamples < 1:
            raise ValueError(
                f"batch_size={self.batch_size} and bootstrap_resamples={self.bootstrap_resamples} "
                "must be positive"
            )
