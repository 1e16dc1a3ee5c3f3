"""Which samples make up which step where the batch size changes or data are left out."""

import bisect
import dataclasses
import functools


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSchedule:
    """The batch size of each step, and the batches that no step sees.

    Samples are numbered through the run, those that are left out too: what is left out moves no
    sample to another number. Steps count from 0.

    Attributes:
        sizes: (first step, batch size) of each stage, ascending, the first at step 0.
        skips: (step, batches of the size at that step that are left out before it), ascending.

    >>> schedule = BatchSchedule(sizes=((0, 4), (2, 8)), skips=((1, 3),))
    >>> [schedule.first_sample(step) for step in range(4)]
    [0, 16, 20, 28]
    """

    sizes: tuple[tuple[int, int], ...]
    skips: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        firsts = [step for step, _ in self.sizes]
        if not firsts or firsts[0] != 0 or sorted(set(firsts)) != firsts:
            raise ValueError(f"sizes={self.sizes} must begin at step 0 and ascend")
        if min(size for _, size in self.sizes) < 1:
            raise ValueError(f"sizes={self.sizes} must be positive")
        if list(self.skips) != sorted(self.skips) or any(min(skip) < 0 for skip in self.skips):
            raise ValueError(f"skips={self.skips} must ascend and not be negative")

    def size(self, step: int) -> int:
        """Returns the batch size of a step."""
        return self.sizes[self._stage_of_step(step)][1]

    def first_sample(self, step: int) -> int:
        """Returns the number of the first sample of a step."""
        stage = self._stage_of_step(step)
        first, size = self.sizes[stage]
        return self.starts[stage] + (step - first + self._left_out(first, step)) * size

    def step_of(self, sample: int) -> int | None:
        """Returns the step that shows a sample; None if it is left out."""
        stage = bisect.bisect_right(self.starts, sample) - 1
        first, size = self.sizes[stage]
        batch = (sample - self.starts[stage]) // size
        for step, batches in self._skips_of(stage):
            before = step - first
            if batch < before:
                break
            if batch < before + batches:
                return None
            batch -= batches
        return first + batch

    @functools.cached_property
    def starts(self) -> list[int]:
        """The number of the first sample of each stage, whether or not it is left out."""
        starts = [0]
        for (first, size), (stop, _) in zip(self.sizes, self.sizes[1:], strict=False):
            batches = stop - first + self._left_out(first, stop - 1)
            starts.append(starts[-1] + batches * size)
        return starts

    def _stage_of_step(self, step: int) -> int:
        return bisect.bisect_right(self.sizes, step, key=lambda stage: stage[0]) - 1

    def _skips_of(self, stage: int) -> list[tuple[int, int]]:
        first = self.sizes[stage][0]
        stop = self.sizes[stage + 1][0] if stage + 1 < len(self.sizes) else float("inf")
        return [skip for skip in self.skips if first <= skip[0] < stop]

    def _left_out(self, first: int, step: int) -> int:
        """Returns the batches that are left out before a step, from a first step on."""
        return sum(batches for at, batches in self.skips if first <= at <= step)


def every_step(batch_size: int) -> BatchSchedule:
    """Returns the schedule of one batch size."""
    return BatchSchedule(sizes=((0, batch_size),))
