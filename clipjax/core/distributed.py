"""Several processes that act as one: joining, agreeing, failing together."""

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipjax.config import UsageError, UserError
from clipjax.core.lifeline import FAILED, Lifeline

_MOST_BROADCAST_BYTES = 1 << 30
_MOST_PROBLEM_BYTES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """How the processes of a run find each other.

    Attributes:
        coordinator: "HOST:PORT" of process 0; empty for one process, "auto" to let JAX read the
            environment of Slurm, Open MPI, Kubernetes or a TPU pod.
        num_processes: of the run; only with HOST:PORT.
        process_id: of this process; only with HOST:PORT.
    """

    coordinator: str = ""
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self):
        explicit = self.coordinator not in ("", "auto")
        given = (self.num_processes is not None, self.process_id is not None)
        if explicit and not all(given):
            raise UsageError("--coordinator=HOST:PORT needs --num_processes and --process_id.")
        if not explicit and any(given):
            raise UsageError("--num_processes and --process_id need --coordinator=HOST:PORT.")


@contextlib.contextmanager
def joined(cluster: Cluster) -> Iterator[Lifeline]:
    """Joins the processes of a run for the time of the block; an error ends all of them.

    An exception that leaves the block is printed and told to the other processes, and ends this one
    at once: waiting for an orderly shutdown would hang.
    """
    if cluster.coordinator:
        _initialize(cluster)
    lifeline = Lifeline(jax.process_index(), jax.process_count())
    if jax.process_count() > 1:
        _connect(lifeline, cluster)
    lifeline.start()
    try:
        yield lifeline
    except BaseException as error:
        if jax.process_count() > 1 and not _is_exit(error):
            _end_all(lifeline, error)
        lifeline.close()
        raise
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("end of run")
    lifeline.close()


def broadcast_bytes(content: bytes | None) -> bytes:
    """Returns what process 0 passed; the others pass None."""
    if jax.process_count() == 1:
        return content or b""
    size = np.array(len(content or b""), np.int64)
    size = int(multihost_utils.broadcast_one_to_all(size))
    assert size <= _MOST_BROADCAST_BYTES
    padded = np.frombuffer((content or b"").ljust(size, b"\0"), np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8).tobytes()


def broadcast_int(value: int) -> int:
    """Returns the value of process 0."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.array(value, np.int64)))


def host_copy(array: jax.Array) -> np.ndarray:
    """Returns the whole array in the memory of every process."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def first_problem(problem: str) -> str:
    """Returns the problem of the first process that passed one; "" if none did."""
    if jax.process_count() == 1:
        return problem
    found = multihost_utils.process_allgather(np.array([bool(problem)]))
    if not found.any():
        return ""
    is_source = jax.process_index() == int(np.argmax(found.reshape(-1)))
    text = problem.encode()[:_MOST_PROBLEM_BYTES].ljust(_MOST_PROBLEM_BYTES, b"\0")
    shared = multihost_utils.broadcast_one_to_all(np.frombuffer(text, np.uint8), is_source)
    return np.asarray(shared, np.uint8).tobytes().rstrip(b"\0").decode(errors="replace")


class Preemption:
    """Whether the run has been asked to stop (SIGTERM), agreed on by all processes.

    With several processes JAX's own service picks a step that all of them have yet to reach.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: object = None
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._ask)

    def asked(self, step: int) -> bool:
        """Returns True at the one step, the same everywhere, at which to save and leave."""
        if jax.process_count() == 1:
            return self._asked
        return multihost_utils.reached_preemption_sync_point(step)

    def close(self) -> None:
        """Gives the signal back."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]

    def _ask(self, *_: object) -> None:
        self._asked = True


def _initialize(cluster: Cluster) -> None:
    if os.environ.get("JAX_PLATFORMS", "cpu").startswith("cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if cluster.coordinator == "auto":
        jax.distributed.initialize()
        return
    host, _, port = cluster.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--coordinator={cluster.coordinator!r}: expected HOST:PORT or auto.")
    jax.distributed.initialize(
        coordinator_address=cluster.coordinator,
        num_processes=cluster.num_processes,
        process_id=cluster.process_id,
        coordinator_bind_address=cluster.coordinator if cluster.process_id == 0 else None,
    )


def _connect(lifeline: Lifeline, cluster: Cluster) -> None:
    if lifeline.process == 0:
        host = _own_address(cluster.coordinator)
        port, token = lifeline.listen(host)
        broadcast_bytes(f"{host} {port} {token}".encode())
    else:
        host, port, token = broadcast_bytes(None).decode().split()
        lifeline.connect(host, int(port), token)
    multihost_utils.sync_global_devices("lifelines connected")


def _own_address(coordinator: str) -> str:
    if coordinator != "auto":
        return socket.gethostbyname(coordinator.rpartition(":")[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("10.255.255.255", 1)
            )  # sends nothing: asks which interface would be used
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def _is_exit(error: BaseException) -> bool:
    return isinstance(error, SystemExit)


def _end_all(lifeline: Lifeline, error: BaseException) -> None:
    if not isinstance(error, UserError | KeyboardInterrupt):
        # A broken collective is the echo of a failure elsewhere: if it is, the lifeline knows by
        # now, names the culprit and ends this process before the pause is over.
        time.sleep(3)
        import traceback

        traceback.print_exception(error)
    message = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error)
    lifeline.fail(message)
    print(f"error: {message} (process {lifeline.process})", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(getattr(error, "exit_status", FAILED))
