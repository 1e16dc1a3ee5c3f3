"""Several processes that act as one: joining, agreeing, failing together."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from clipjax.config import Cluster, UserError
from clipjax.core.lifeline import FAILED, TRY_AGAIN, Lifeline

_MOST_BROADCAST_BYTES = 1 << 30
_MOST_PROBLEM_BYTES = 1024
_JAX_IS_LATER_SECONDS = 60
_EVERYWHERE = "0.0.0.0"  # noqa: S104  # is only compared with
_JOINING = (
    "Start every process of the run, all with the same address of process 0: one that the others "
    "can reach, with a port that is free there."
)


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
        # Gloo listens on the address of this host's name: JAX has no option to choose another.
        # NCCL takes the interface that NCCL_SOCKET_IFNAME names.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    explicit = cluster.coordinator != "auto"
    # JAX aborts the process when its own timeout is over, with a stack of C++ for a message.
    patience = threading.Timer(cluster.initialization_seconds, _nobody_came, [cluster])
    patience.daemon = True
    patience.start()
    try:
        _check_port(cluster)
        jax.distributed.initialize(
            coordinator_address=cluster.coordinator if explicit else None,
            num_processes=cluster.num_processes,
            process_id=cluster.process_id,
            # Variables of a job around this one must not decide which devices are ours.
            cluster_detection_method="deactivate" if explicit else None,
            coordinator_bind_address=_listening_address(cluster),
            initialization_timeout=cluster.initialization_seconds + _JAX_IS_LATER_SECONDS,
            heartbeat_timeout_seconds=cluster.heartbeat_seconds,
            shutdown_timeout_seconds=cluster.shutdown_seconds,
        )
    except (RuntimeError, ValueError, OSError) as error:
        what = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"--coordinator={cluster.coordinator}: this process could not join the others "
            f"({what[0]}). {_JOINING}"
        ) from error
    finally:
        patience.cancel()


def _check_port(cluster: Cluster) -> None:
    """Raises OSError if process 0 cannot listen; JAX's own failure crashes later, at exit."""
    if cluster.process_id == 0:
        host, _, port = str(_listening_address(cluster)).rpartition(":")
        socket.create_server((host, int(port))).close()


def _nobody_came(cluster: Cluster) -> None:
    me = "this process" if cluster.process_id is None else f"process {cluster.process_id}"
    print(
        f"error: --coordinator={cluster.coordinator}: {me} (pid {os.getpid()} on "
        f"{socket.gethostname()}) waited {cluster.initialization_seconds} s "
        f"(--initialization_seconds) and not all processes came. {_JOINING}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(TRY_AGAIN)


def _listening_address(cluster: Cluster) -> str | None:
    """Returns "ADDRESS:PORT" for process 0 to listen on; None leaves it to JAX, on all of them."""
    if cluster.coordinator != "auto":
        host, _, port = cluster.coordinator.rpartition(":")
        return f"{cluster.bind or host}:{port}"
    bind = cluster.bind or _own_address("auto")
    if not cluster.bind and ("OMPI_MCA_orte_hnp_uri" in os.environ or not bind):
        return None
    # JAX takes the port from here: otherwise it would be known only after it listens.
    job = os.environ.get("SLURM_JOB_ID", "")
    port = 61_440 + int(job) % 4096 if job.isdigit() else 8476
    return f"{bind}:{os.environ.setdefault('JAX_COORDINATOR_PORT', str(port))}"


def _connect(lifeline: Lifeline, cluster: Cluster) -> None:
    if lifeline.process == 0:
        host = cluster.bind if cluster.bind != _EVERYWHERE else ""
        host = host or _own_address(cluster.coordinator) or _default_route()
        port, token = lifeline.listen(host)
        broadcast_bytes(f"{host} {port} {token}".encode())
    else:
        host, port, token = broadcast_bytes(None).decode().split()
        lifeline.connect(host, int(port), token)
    multihost_utils.sync_global_devices("lifelines connected")


def _own_address(coordinator: str) -> str:
    """Returns the address that other hosts know this one by; "" where it cannot be told."""
    if coordinator != "auto":
        return socket.gethostbyname(coordinator.rpartition(":")[0])
    route = _default_route()
    name = os.environ.get("SLURMD_NODENAME", "")
    try:
        known = socket.gethostbyname(name) if name else route
    except OSError:
        return ""
    # Many hosts call themselves 127.0.1.1, which no other one can reach.
    return "" if known.startswith("127.") and not route.startswith("127.") else known


def _default_route() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: asks which interface would be used.
            probe.connect(("10.255.255.255", 1))
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
