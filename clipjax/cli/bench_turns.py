"""Two programs that take turns at one machine, each in a process of its own.

A worker reads one order a line on standard input and answers with one JSON object a line. Between
orders it waits in `readline`: it runs on no CPU, which the other side measures.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import clipjax
from clipjax.config import UserError

Answer = dict[str, Any]
Orders = Mapping[str, Callable[[], Answer]]

# Small, so that many steps on one batch of noise stay finite; it costs what any rate does.
LEARNING_RATE = 1e-5


class Worker:
    """The far end of a process that runs `serve`; use it in a `with` statement.

    Args:
        name: for messages.
        command: after the Python interpreter.
        options: handed to the worker, as JSON.
        threads: CPUs that it may use.
        device: cpu or gpu.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        options: Mapping[str, Any],
        threads: int,
        device: str = "cpu",
    ):
        self.name = name
        self._resources = contextlib.ExitStack()
        # A file and not a pipe: nobody reads it unless the worker fails.
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        self._errors = self._resources.enter_context(errors)
        root = str(Path(clipjax.__file__).parents[1])
        path = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        flags = os.environ.get("XLA_FLAGS", "")
        self._process = subprocess.Popen(
            [
                sys.executable,
                *command,
                json.dumps({**options, "threads": threads, "device": device}),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "OMP_NUM_THREADS": str(threads),
                "JAX_PLATFORMS": "cpu" if device == "cpu" else "cuda",
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the other needs memory of the GPU too
                "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=1".strip(),
                "HF_HUB_OFFLINE": "1",
            },
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # an order that could not be sent is still in its buffer
        with self._resources, self._process:
            pass  # closes the other pipe and the file, and waits

    def ask(self, order: str) -> Answer:
        """Sends an order and returns the answer, when it is there.

        Raises:
            UserError: if the worker fails.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            said = [text.strip() for text in self._errors if text.strip()]
            last = said[-1] if said else "it said nothing"
            raise UserError(f"the process of {self.name} ended with status {status}: {last}")
        return json.loads(line)

    @property
    def process_id(self) -> int:
        """Of the worker."""
        return self._process.pid

    def cpu_seconds(self) -> float | None:
        """Returns what its threads have used so far; None where the system does not tell."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return None
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def serve(prepare: Callable[[dict[str, Any]], Orders]) -> None:
    """Runs a worker until its standard input ends.

    Args:
        prepare: called with the options of the command line; returns what each order does.
    """
    options = json.loads(sys.argv[1])
    # Before anything heavy is imported: XLA makes one thread for each CPU that it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options["threads"]])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # What a library prints must not be taken for an answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # In the order in which it was printed, so that an error stays last.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    orders = prepare(options)
    for line in sys.stdin:
        answers.write(json.dumps(orders[line.strip()]()) + "\n")
        answers.flush()


def timed(step: Callable[[], float]) -> Answer:
    """Returns the loss of a step and the seconds that it took; the step waits for its results.

    The CPU time of all threads says, on a machine that others use too, who was kept waiting.
    """
    cpu_start, start = time.process_time(), time.perf_counter()
    loss = step()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "loss": loss}


def random_batch(
    batch_size: int, image_size: int, context_length: int, vocab_size: int = 49408
) -> dict[str, Any]:
    """Returns images of noise and texts of random length that end with the end token.

    Every worker makes the same: NumPy arrays as our data pipeline gives them.

    Args:
        batch_size: pairs.
        image_size: in pixels.
        context_length: tokens of a text, padding included.
        vocab_size: the last two ids are start and end, as in CLIP's.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    tokens = rng.integers(1, vocab_size - 2, (batch_size, context_length), np.int32)
    tokens[:, 0] = vocab_size - 2
    ends = rng.integers(1, context_length, batch_size)
    tokens[np.arange(context_length) >= ends[:, None]] = 0
    tokens[np.arange(batch_size), ends] = vocab_size - 1
    images = rng.integers(0, 256, (batch_size, image_size, image_size, 3), np.uint8)
    return {"images": images, "tokens": tokens}
