"""The worker of `clipjax data bench --scaling` that loads with processes instead of threads.

Each process has a thread of its own, fills its share of the rows of every batch and hands them over
in shared memory: the other way to use several cores, measured against the threads that we took.
"""

import math
import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing import shared_memory
from typing import Any

import numpy as np

from clipjax.cli.bench_data_ours import config_of
from clipjax.cli.bench_turns import Orders, serve
from clipjax.data.pipeline import Batches
from clipjax.train.setup import open_data, open_source

_SLOTS = 2


class Share:
    """The rows of a batch that one process fills, in shared memory.

    Args:
        options: of the worker.
        rows: which rows of a batch.
        row_bytes: of one row, all its arrays.
    """

    def __init__(self, options: Mapping[str, Any], rows: range, row_bytes: int):
        context = multiprocessing.get_context("spawn")
        self._free, self._full = context.Semaphore(_SLOTS), context.Semaphore(0)
        self._memory = shared_memory.SharedMemory(create=True, size=_SLOTS * len(rows) * row_bytes)
        self._process = context.Process(
            target=fill_share,
            args=(dict(options), rows, self._memory.name, self._free, self._full),
            daemon=True,
        )
        self._process.start()

    def take(self) -> None:
        """Waits for the rows of the next batch and gives their place back."""
        while not self._full.acquire(timeout=1.0):
            if not self._process.is_alive():
                raise RuntimeError("a loading process ended early")
        self._free.release()

    def close(self) -> None:
        """Ends the process and frees the memory."""
        self._process.kill()
        self._process.join()
        self._memory.close()
        self._memory.unlink()


def fill_share(options: dict[str, Any], rows: range, memory: str, free: Any, full: Any) -> None:
    """Fills the rows of batch after batch, each when a place is free; runs until it is ended."""
    config = config_of({**options, "workers": 1})
    data = open_data(config, open_source(config), saved_tokenizer=None)
    places = np.array(rows)
    batches = Batches(
        lambda step: data.order.samples(step, places),
        data.pairs.plan,
        data.pairs.row_spec,
        threads=1,
    )
    block = shared_memory.SharedMemory(memory)
    size = block.size // _SLOTS
    parent = os.getppid()
    for number, batch in enumerate(batches):
        while not free.acquire(timeout=1.0):
            if os.getppid() != parent:
                os._exit(1)  # whoever started it was killed
        start = number % _SLOTS * size
        for array in batch.values():
            place = np.ndarray(array.shape, array.dtype, block.buf, start)
            place[...] = array
            start += array.nbytes
        full.release()


def prepare(options: dict[str, Any]) -> Orders:
    """Starts the processes."""
    config = config_of(options)
    size, count = options["batch_size"], options["workers"]
    pairs = open_data(config, open_source(config), saved_tokenizer=None).pairs
    row_bytes = sum(math.prod(s) * np.dtype(kind).itemsize for s, kind in pairs.row_spec.values())
    shares = [
        Share(options, range(number * size // count, (number + 1) * size // count), row_bytes)
        for number in range(count)
    ]

    def take() -> dict[str, Any]:
        for _ in range(options["batches"]):
            for share in shares:
                share.take()
        return {"images": options["batches"] * size}

    def close() -> dict[str, Any]:
        for share in shares:
            share.close()
        return {}

    return {"take": take, "close": close}


if __name__ == "__main__":
    serve(prepare)
