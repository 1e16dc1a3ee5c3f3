"""Checkpoints that are either whole and verified or not there.

A checkpoint is a directory `checkpoints/STEP/` with the arrays as Orbax writes them (`state/`), a
few small files (config, tokenizer, run) and, written last, `manifest.json` with the size and the
CRC-32 of every file. Orbax alone restores flipped bits silently and takes a failed asynchronous
save for the latest step (both seen with 0.12.8); the manifest is what makes a checkpoint one.
"""

import contextlib
import functools
import gc
import json
import logging
import os
import shutil
import sys
import threading
import traceback
import warnings
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from clipjax.config import CheckpointConfig, UserError
from clipjax.core.best_checkpoints import BestCheckpoints

MANIFEST = "manifest.json"
_SPACE_FACTOR = 1.1
_SMALL_FILES_BYTES = 1 << 20


class SaveError(Exception):
    """A save that did not happen; the run may go on and try again."""


def state_bytes(state: Any) -> int:
    """Returns the bytes of all arrays of a state, over all devices, copies counted once."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


class CheckpointReader:
    """Finds, verifies and restores checkpoints below a directory."""

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = Path(directory).absolute()

    def steps(self) -> list[int]:
        """Returns the steps of finished checkpoints, ascending; nothing is verified here."""
        if not self.directory.is_dir():
            return []
        found = [entry for entry in self.directory.iterdir() if entry.name.isdigit()]
        return sorted(int(entry.name) for entry in found if (entry / MANIFEST).is_file())

    def path(self, step: int) -> Path:
        """Returns the directory of a checkpoint."""
        return self.directory / f"{step:08d}"

    def problem(self, step: int) -> str:
        """Returns what is wrong with a checkpoint, or "" if every byte is as it was written."""
        folder = self.path(step)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            files, written_at = dict(manifest["files"]), manifest["step"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{MANIFEST} cannot be read ({error!r})"
        if written_at != step:
            return f"{MANIFEST} is of step {written_at}"
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda name: _stamp(folder / name), files)
            for name, stamp in zip(files, found, strict=True):
                if stamp is None:
                    return f"{name} is missing"
                if list(stamp) != files[name]:
                    return f"{name} has size and CRC-32 {list(stamp)}, the manifest {files[name]}"
        return ""

    def newest_verified(self, before: int | None = None) -> int | None:
        """Returns the newest step whose every byte is as it was written, or None.

        Damaged ones are named on standard error and left alone.
        """
        for step in reversed(self.steps()):
            if before is not None and step >= before:
                continue
            problem = self.problem(step)
            if not problem:
                return step
            print(
                f"checkpoint {self.path(step)} is damaged: {problem}. It is left alone; an older "
                "one is used if there is one.",
                file=sys.stderr,
            )
        return None

    def read(self, step: int, name: str) -> bytes:
        """Returns one of the small files of a checkpoint."""
        return (self.path(step) / name).read_bytes()

    def restore(self, step: int, like: Any) -> Any:
        """Returns the arrays of a checkpoint.

        Args:
            step: of a finished checkpoint.
            like: pytree of `jax.ShapeDtypeStruct` with shardings, or a part of that tree; any mesh
                will do, whatever mesh the state was saved from.
        """
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(
                self.path(step) / "state",
                args=ocp.args.PyTreeRestore(
                    item=like,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(like),
                    partial_restore=True,
                ),
            )


class CheckpointWriter(CheckpointReader):
    """Saves in the background; see the module for what a checkpoint is.

    Call `poll` every step: it finishes what has been written and raises what went wrong.

    Args:
        directory: is made; leftovers of interrupted saves in it are removed.
        config: what is kept.
        files: small files that go into every checkpoint, by name.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        config: CheckpointConfig,
        files: Mapping[str, bytes],
    ):
        super().__init__(directory)
        self._config, self._files = config, files
        self._best = BestCheckpoints(self.directory, config.best_metric)
        self._saver = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
        self._pending: int | None = None
        self._finishing: threading.Thread | None = None
        self._finish_error: Exception | None = None
        self._primary = jax.process_index() == 0
        _hush_orbax()
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._primary:
            finished = set(self.steps())
            for entry in self.directory.iterdir():
                # Only what this class names: a copy that somebody put here stays.
                if entry.name.isdigit() and int(entry.name) not in finished:
                    shutil.rmtree(entry, ignore_errors=True)

    def rate(self, step: int, scores: Mapping[str, float]) -> None:
        """Remembers how a checkpoint scored, so that the best are kept.

        Args:
            step: of a checkpoint that was saved or is being saved.
            scores: of its evaluation; nothing happens where `best_metric` is not among them.
        """
        if self._primary and self._config.best_metric in scores:
            self._best.add(step, scores[self._config.best_metric])
            if self._pending is None:
                self._remove_old()

    def lack_of_space(self, state: Any) -> str:
        """Returns what is missing if the disk has no room for another checkpoint, else ""."""
        need = int(_SPACE_FACTOR * state_bytes(state)) + _SMALL_FILES_BYTES
        free = shutil.disk_usage(self.directory).free
        if free >= need:
            return ""
        return (
            f"{self.directory} has {free / 1e6:,.1f} MB free, a checkpoint needs "
            f"{need / 1e6:,.1f} MB"
        )

    def save(self, step: int, state: Any) -> None:
        """Copies the state to the host and writes it in the background.

        Raises:
            SaveError: if this save, or the one before it, failed.
        """
        self.wait()
        if (self.path(step) / MANIFEST).is_file() and not self.problem(step):
            return
        try:
            self._pending = step
            if self._primary:  # another process would remove what this one has begun to write
                shutil.rmtree(self.path(step), ignore_errors=True)
                self.path(step).mkdir(parents=True, exist_ok=True)
            self._saver.save(self.path(step) / "state", args=ocp.args.PyTreeSave(state))
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def poll(self) -> int | None:
        """Returns the step that has just become a checkpoint, or None.

        Raises:
            SaveError: if the pending save failed; what it left behind is removed.
        """
        if self._pending is None:
            return None
        try:
            self._saver.check_for_errors()
        except Exception as error:  # whatever the storage layer raised
            raise self._failed(error) from error
        if not self._primary:
            return None
        if self._finishing is None:
            if (self.path(self._pending) / "state").is_dir():
                self._finishing = threading.Thread(target=self._finish, args=(self._pending,))
                self._finishing.start()
            return None
        return None if self._finishing.is_alive() else self._finished()

    def wait(self) -> int | None:
        """Waits until nothing is pending; returns the step that has become a checkpoint by it.

        Raises:
            SaveError: if the pending save failed.
        """
        if self._pending is None:
            return None
        try:
            self._saver.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error
        if not self._primary:
            self._pending = None
            return None
        if self._finishing is None:
            self._finishing = threading.Thread(target=self._finish, args=(self._pending,))
            self._finishing.start()
        self._finishing.join()
        return self._finished()

    def close(self) -> None:
        """Waits and stops the threads of Orbax; never raises, since a run may end by an error."""
        try:
            self.wait()
        except SaveError as error:
            print(f"warning: not saved: {error}.", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):  # what failed has been told
            self._saver.close()

    def _finish(self, step: int) -> None:
        try:
            folder = self.path(step)
            for name, content in self._files.items():
                (folder / name).write_bytes(content)
            files = {
                path.relative_to(folder).as_posix(): _stamp(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            write_atomically(
                folder / MANIFEST, json.dumps({"step": step, "files": files}, indent=1).encode()
            )
            self._remove_old()
        except Exception as error:
            self._finish_error = error

    def _finished(self) -> int:
        step, error = self._pending, self._finish_error
        self._pending = self._finishing = self._finish_error = None
        assert step is not None
        if error is not None:
            self._pending = step
            raise self._failed(error) from error
        return step

    def _failed(self, error: Exception) -> SaveError:
        step, self._pending, self._finishing = self._pending, None, None
        self._finish_error = None
        if step is not None and self._primary:
            shutil.rmtree(self.path(step), ignore_errors=True)
        # The writes that were given up would complain when the interpreter ends.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return SaveError(f"step {step} could not be written: {reason[0][:300]}")

    def _remove_old(self) -> None:
        steps = self.steps()
        every = self._config.keep_every_steps
        best = self._best.best(self._config.keep_best) if self._config.best_metric else []
        for step in steps[: -self._config.keep]:
            if not (every and step % every == 0) and step not in best:
                shutil.rmtree(self.path(step), ignore_errors=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a small file so that it is either the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def find_checkpoints(directory: str | os.PathLike[str]) -> CheckpointReader:
    """Returns the reader for a working directory, or for one checkpoint inside it.

    Raises:
        UserError: if there is no finished checkpoint.
    """
    reader = CheckpointReader(Path(directory) / "checkpoints")
    if not reader.steps():
        raise UserError(
            f"{directory}: no finished checkpoint below {reader.directory}. Give the --workdir "
            "of a run that has saved one."
        )
    return reader


@functools.cache
def _hush_orbax() -> None:
    """Leaves it to SaveError to tell what failed: Orbax adds a traceback for every array."""
    told = (
        "_SignalingThread.run() raised",
        "Failed to run",
        "Failed to write metadata",
        "was never retrieved",
        "destroyed but",
    )
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(
            lambda record: not any(what in record.getMessage() for what in told)
        )
    hook = sys.unraisablehook

    def unraisable(event: Any) -> None:
        # From the writes of the other arrays, which end after Orbax has given up.
        if str(event.exc_value) != "Event loop is closed":
            hook(event)

    sys.unraisablehook = unraisable
    warnings.filterwarnings("ignore", "coroutine 'async_serialize_from_host", RuntimeWarning)


def _stamp(path: Path) -> tuple[int, int] | None:
    crc = size = 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 22):
                crc = zlib.crc32(chunk, crc)
                size += len(chunk)
    except OSError:
        return None
    return size, crc
