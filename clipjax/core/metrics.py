"""Where metrics go: JSON lines, which are the record; TensorBoard and wandb if wanted."""

import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from clipjax.config import LogConfig, UserError


def strict_json(value: Any, indent: int | None = None) -> str:
    """Returns JSON that every reader takes: NaN and infinities become strings.

    >>> strict_json({"loss": float("nan"), "steps": [1, 2.5]})
    '{"loss": "nan", "steps": [1, 2.5]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


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
    """One JSON object a line, flushed; NaN and infinities are written as strings."""

    def __init__(self, path: Path, *, resume_step: int):
        self._file = open(path, "r+" if path.exists() else "w+", encoding="utf-8")  # noqa: SIM115
        self._drop_after(resume_step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a line."""
        self._file.write(strict_json({"step": step, **metrics}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _drop_after(self, step: int) -> None:
        """Forgets the lines that the resumed run is about to write again, and a torn last one."""
        good = 0
        while line := self._file.readline():
            try:
                if not line.endswith("\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            good = self._file.tell()
        self._file.seek(good)
        self._file.truncate()


class TensorBoard:
    """Scalars in event files, written without TensorFlow."""

    def __init__(self, directory: Path, *, resume_step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=resume_step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one scalar a metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


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
