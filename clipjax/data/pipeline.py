"""Threads that keep the next batches ready, in buffers that are allocated once."""

import collections
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]
FillRow = Callable[[int, Mapping[str, np.ndarray]], Any]
"""(sample number, one row of every buffer): decodes that sample of the run into the row."""
FillPlanned = Callable[[int, Mapping[str, np.ndarray]], Any]
"""(i, one row of every buffer): decodes the i-th of the samples that were planned into the row."""
Plan = Callable[[np.ndarray], FillPlanned]
"""Given the sample numbers of a batch: draws what is random and says what to read ahead."""

_ROWS_PER_TASK = 16


def one_by_one(fill_row: FillRow) -> Plan:
    """Returns the plan that hands each sample number to a function."""
    return lambda samples: lambda i, row: fill_row(int(samples[i]), row)


class Batches(Iterator[Batch]):
    """Batches step, step + 1, ... of a run; batch k is the same wherever iteration began.

    The decoders release the interpreter lock, so threads are enough and nothing is copied between
    processes. A returned batch is overwritten once the next one has been asked for.

    Args:
        samples_of: the sample numbers that this process holds of a step.
        plan: how a batch of them is filled; see `one_by_one` for a plain function.
        row_spec: shape and dtype of a row of each buffer.
        first_step: where to begin.
        stop_step: where to end; None for never.
        threads: 0 for one a core.
        ahead: batches that are filled while one is used.
    """

    def __init__(
        self,
        samples_of: Callable[[int], np.ndarray],
        plan: Plan,
        row_spec: Mapping[str, tuple[tuple[int, ...], np.dtype]],
        *,
        first_step: int = 0,
        stop_step: int | None = None,
        threads: int = 0,
        ahead: int = 2,
    ):
        self._samples_of, self._plan = samples_of, plan
        rows = len(samples_of(first_step))
        self._pool = ThreadPoolExecutor(
            threads or len(os.sched_getaffinity(0)), thread_name_prefix="decode"
        )
        self._next_start, self._stop = first_step, stop_step
        self._lent: Batch | None = None
        self._ready: collections.deque[tuple[Batch, list[Future[None]]]] = collections.deque()
        for _ in range(ahead):
            self._start({k: np.zeros((rows, *s), d) for k, (s, d) in row_spec.items()})
        self._spare: Batch | None = {k: np.zeros((rows, *s), d) for k, (s, d) in row_spec.items()}

    def __next__(self) -> Batch:
        """Waits for the next batch; an error in a thread is raised here and ends the run.

        Raises:
            StopIteration: behind the last one.
        """
        free = self._lent if self._lent is not None else self._spare
        self._spare = None
        assert free is not None
        self._start(free)
        if not self._ready:
            raise StopIteration
        buffers, tasks = self._ready.popleft()
        for task in tasks:
            task.result()
        self._lent = buffers
        return buffers

    def close(self) -> None:
        """Stops the threads; safe to call twice."""
        self._pool.shutdown(cancel_futures=True)

    def _start(self, buffers: Batch) -> None:
        if self._next_start == self._stop:
            return
        samples = self._samples_of(self._next_start)
        self._next_start += 1
        fill_row = self._plan(samples)

        def fill(first: int) -> None:
            for row in range(first, min(first + _ROWS_PER_TASK, len(samples))):
                fill_row(row, {name: buffer[row, ...] for name, buffer in buffers.items()})

        firsts = range(0, len(samples), _ROWS_PER_TASK)
        self._ready.append((buffers, [self._pool.submit(fill, first) for first in firsts]))


class DeviceBatches(Iterator[Any]):
    """Hands host batches to the devices in a thread of its own, a few ahead of the step.

    Args:
        batches: iterated over and closed with this iterator.
        put: makes a device batch of an item; when it returns, host buffers may be overwritten.
        ahead: device batches kept ready.

    Attributes:
        wait_seconds: time that `next` has waited so far: the step's share of waiting for input.
    """

    def __init__(
        self,
        batches: "Batches | Generator[Any, None, None]",
        put: Callable[[Any], Any],
        *,
        ahead: int = 2,
    ):
        self._batches, self._put = batches, put
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self.wait_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="transfer", daemon=True)
        self._thread.start()

    def __next__(self) -> Any:
        """Returns the next device batch; an error in a thread is raised here, again and again."""
        start = time.perf_counter()
        item = self._queue.get()
        self.wait_seconds += time.perf_counter() - start
        if isinstance(item, BaseException):
            self._queue.put(item)  # the thread has ended: another `next` must not wait for it
            raise item
        return item

    def close(self) -> None:
        """Stops the threads; safe to call twice."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._batches.close()
        with contextlib.suppress(queue.Full):  # a `next` that is waiting, or still to come
            self._queue.put_nowait(RuntimeError("these batches are closed"))

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._offer(self._put(next(self._batches)))
        except BaseException as error:
            self._offer(error)

    def _offer(self, item: Any) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None
