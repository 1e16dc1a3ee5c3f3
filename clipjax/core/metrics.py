"""Where metrics go: JSON lines, which are the record; TensorBoard and wandb if wanted."""

import contextlib
import errno
import json
import math
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from clipjax.config import LogConfig, UserError
from clipjax.core.files import replaced


def strict_json(value: Any, indent: int | None = None) -> str:
    """Returns JSON that every reader takes: NaN and infinities become strings.

    >>> strict_json({"loss": float("nan"), "steps": [1, 2.5]})
    '{"loss": "nan", "steps": [1, 2.5]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON into a file that is whole or not there."""
    with replaced(path) as file:
        file.write((strict_json(value, indent=1) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(float(value))
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


@runtime_checkable
class Sink(Protocol):
    """Something that keeps metrics."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps the metrics of a step."""
        ...

    def close(self) -> None:
        """Flushes and closes."""
        ...


class JsonLines:
    """One JSON object a line, at once; NaN and infinities are written as strings."""

    def __init__(self, path: Path, *, resume_step: int):
        if path.exists():
            os.truncate(path, _end_of_step(path, resume_step))
        # Unbuffered, so that a line that failed is not written later.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._end = self._file.tell()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a line.

        Raises:
            OSError: if it cannot be written whole; nothing of it stays.
        """
        line = (strict_json({"step": step, **metrics}) + "\n").encode()
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(line)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _end_of_step(path: Path, step: int) -> int:
    """Returns where the lines end that a resumed run will not write again; a torn one ends them."""
    good = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            good += len(line)
    return good


class TensorBoard:
    """Scalars in event files, written without TensorFlow.

    And without the thread of `SummaryWriter`, which a full disk ends, so that the next flush hangs.
    """

    def __init__(self, directory: Path, *, resume_step: int):
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]

        self._directory, self._writer, self._files = directory, None, 0
        # TensorBoard hides what an earlier part of the run wrote for the steps that come again.
        self._first = Event(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one scalar a metric.

        Raises:
            OSError: if they cannot be written; the next ones go to a new file.
        """
        from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboardX.summary import scalar

        try:
            writer = self._writer = self._writer or self._open()
            for name, value in metrics.items():
                writer.write_event(
                    Event(wall_time=time.time(), step=step, summary=scalar(name, value))
                )
            writer.flush()
        except OSError:
            self._abandon()
            raise

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()

    def _abandon(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):  # what it has buffered does not fit either
                self._writer.close()
        self._writer = None

    def _open(self) -> Any:
        from tensorboardX.event_file_writer import EventsWriter

        self._directory.mkdir(parents=True, exist_ok=True)
        self._files += 1
        writer = EventsWriter(str(self._directory / "events"), f".{os.getpid()}.{self._files}")
        writer.write_event(self._first)
        return writer


class Wandb:
    """A run at Weights & Biases; the key comes from the environment and is never written."""

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise UserError(
                f"config.log.wandb_project={project!r} needs wandb: pip install 'clipjax[wandb]'."
            ) from error
        self._run = wandb.init(
            project=project,
            id=_run_id(workdir / "wandb_id.txt"),
            name=workdir.name,
            dir=str(workdir),
            config=dict(config),
            resume="allow",
            mode=os.environ.get("WANDB_MODE"),  # type: ignore[arg-type]
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs one row."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def _run_id(path: Path) -> str:
    """Returns the same id whenever the run goes on, and no other run's."""
    if not path.exists():
        path.write_text(f"{secrets.token_hex(8)}\n")
    return path.read_text().strip()


def make_sinks(
    workdir: Path, log: LogConfig, config: Mapping[str, Any], *, resume_step: int
) -> list[Sink]:
    """Returns the sinks of a run; a resumed one goes on where its checkpoint was."""
    # First what may refuse, so that nothing is left open.
    wandb = [Wandb(log.wandb_project, workdir, config)] if log.wandb_project else []
    sinks: list[Sink] = [JsonLines(workdir / "metrics.jsonl", resume_step=resume_step)]
    if log.tensorboard:
        sinks.append(TensorBoard(workdir / "tensorboard", resume_step=resume_step))
    return [*sinks, *wandb]
