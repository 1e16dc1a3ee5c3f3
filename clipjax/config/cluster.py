"""How the processes of a run find each other: of the machines, so no part of a run's config."""

import dataclasses

from clipjax.config.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """How the processes of a run find each other.

    Attributes:
        coordinator: "HOST:PORT" of process 0; empty for one process, "auto" to let JAX read the
            environment of Slurm, Open MPI, Kubernetes or a TPU pod.
        num_processes: of the run; only with HOST:PORT.
        process_id: of this process; only with HOST:PORT.
        bind: address on which process 0 listens for the others; empty for the one that they call
            it by: HOST, or under "auto" the address of its node's name or of its default route.
        initialization_seconds: within which all processes must have come.
        heartbeat_seconds: after which JAX's own service takes a silent process for dead. The
            lifeline is quicker; this is for a process whose lifeline is silent too.
        shutdown_seconds: that a process which is done waits for the others.
    """

    coordinator: str = ""
    num_processes: int | None = None
    process_id: int | None = None
    bind: str = ""
    initialization_seconds: int = 300
    heartbeat_seconds: int = 60
    shutdown_seconds: int = 30

    def __post_init__(self):
        explicit = self.coordinator not in ("", "auto")
        given = (self.num_processes is not None, self.process_id is not None)
        if explicit and not all(given):
            raise UsageError("--coordinator=HOST:PORT needs --num_processes and --process_id.")
        if not explicit and any(given):
            raise UsageError("--num_processes and --process_id need --coordinator=HOST:PORT.")
        if self.bind and not self.coordinator:
            raise UsageError(f"--bind={self.bind} is for several processes: needs --coordinator.")
        if ":" in self.bind:
            raise UsageError(f"--bind={self.bind}: expected an address without a port.")
        if explicit:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdigit():
                raise UsageError(f"--coordinator={self.coordinator!r}: expected HOST:PORT or auto.")
        if all(given) and not 0 <= self.process_id < self.num_processes:  # type: ignore[operator]
            raise UsageError(
                f"--process_id={self.process_id} of --num_processes={self.num_processes}: expected "
                "a number from 0 on."
            )
        for name in ("initialization", "heartbeat", "shutdown"):
            if (seconds := getattr(self, f"{name}_seconds")) < 1:
                raise UsageError(f"--{name}_seconds={seconds}: expected at least 1.")
