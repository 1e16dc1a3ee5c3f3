"""The folder of a scan while it is written: whose it is, what is done, what must go."""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from clipjax.config import UserError
from clipjax.core.distributed import broadcast_int
from clipjax.core.files import replaced
from clipjax.core.folder_lock import LOCK, locked_folder
from clipjax.data.concepts import Concept
from clipjax.interpret.scan_files import (
    ACTIVATIONS,
    CONCEPTS,
    CONTROLS,
    FACETS,
    RECORD,
    SCHEMA,
    SUMMARIES,
    Scan,
    ScanRecord,
    facet_is_whole,
    finish_scan,
)

_WORK, _ABOUT = ".scan", "about.json"
_WRITTEN = (RECORD, CONCEPTS, FACETS, ACTIVATIONS, SUMMARIES)
_STIMULI = "dataset.json"
_LATENTS = "latents"
_RESULTS = (
    "neurons.json",
    "neurons.npz",
    "neurons.html",
    "rsa.json",
    "dissect.json",
    "ablation.json",
    "match.json",
    "typographic.json",
    "labels.json",
)
"""What commands write beside a scan: it is of that scan, and goes with it."""


class ScanFolder:
    """The folder of a scan that is being written; process 0 changes it, all look at it.

    Args:
        path: of the folder.
        about: "key" is one text for one scan; "model" and "stimuli" are told.

    Attributes:
        states: folder for what a killed scan goes on from.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]):
        self.path, self._about = path, about
        self.states = (path / _WORK / "states").absolute()
        self._primary = jax.process_index() == 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other scans out of the folder for the time of the block.

        Raises:
            UserError: if another process writes there, or what is there is not of a scan.
        """
        with contextlib.ExitStack() as stack:
            if self._primary:
                refuse_other_files(self.path)  # not even a lock is left among them
                stack.enter_context(locked_folder(self.path, "--out", "process"))
            yield

    def begin(self, record: ScanRecord, *, resume: bool, force: bool) -> bool:
        """Makes the folder ready; returns whether the scan is whole already.

        Raises:
            UserError: if there is another scan, or the folder cannot be made.
        """
        whole = False
        if self._primary:
            try:
                whole = self._ready(record, resume, force)
            except OSError as error:
                raise UserError(f"{self.path}: cannot be written ({error.strerror}).") from error
        return bool(broadcast_int(int(whole)))

    def has(self, record: ScanRecord, facet: str) -> bool:
        """Returns whether a facet is done."""
        done = self._primary and facet_is_whole(self.path, record, facet)
        return bool(broadcast_int(int(done)))

    def finish(self, record: ScanRecord, concepts: Iterable[Concept]) -> None:
        """Writes the record: with it the scan is whole."""
        if self._primary:
            finish_scan(self.path, record, list(concepts))
            shutil.rmtree(self.states, ignore_errors=True)
        broadcast_int(0)  # nobody reads before process 0 has written

    def _ready(self, record: ScanRecord, resume: bool, force: bool) -> bool:
        refuse_other_files(self.path)
        found = _known_scan(self.path)
        same = found.get("key") == self._about["key"]
        if found and not same and not force:
            what = "or with other settings"
            if "schema" in found:
                what = f"of schema {found['schema']}, where this release writes {SCHEMA}"
            raise UserError(
                f"{self.path}: holds a scan of {found.get('model') or 'another model'} with "
                f"{found.get('stimuli', 'other stimuli')}, {what}. Name another folder, or add "
                "--force to replace it."
            )
        if found and not same:
            _clear_scan(self.path)
        elif found and (force or not resume):
            _clear_files(self.path)
        elif found and self._is_whole(record):
            return True
        _write_about(self.path, self._about)
        (self.path / RECORD).unlink(missing_ok=True)  # no longer whole
        for folder in (FACETS, ACTIVATIONS, SUMMARIES):
            (self.path / folder).mkdir(exist_ok=True)
        return False

    def _is_whole(self, record: ScanRecord) -> bool:
        try:
            Scan(self.path)
        except UserError:
            return False
        return all(facet_is_whole(self.path, record, facet) for facet in record.facets)


def refuse_other_files(path: Path, names: Iterable[str] = ()) -> None:
    """Refuses a folder that is not of a scan but has files of the names that a scan writes.

    Args:
        path: of the folder.
        names: that are written too.

    Raises:
        UserError: naming them.
    """
    if _known_scan(path):
        return
    there = [name for name in (*_WRITTEN, _STIMULI, *names) if (path / name).exists()]
    if there:
        raise UserError(
            f"{path}: holds files that are not of a scan ({', '.join(there)}); they are not "
            "replaced, not even with --force. Name another folder."
        )


@contextlib.contextmanager
def held_for_latents(path: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Gives the folder of an earlier result of `sae label`, or a new one, empty for the block.

    Controls stay: they are results of their own.

    Args:
        path: of the folder.
        about: as that of `ScanFolder`.

    Raises:
        UserError: if something else is there, or another process writes there.
    """
    refuse_other_than_latents(path)
    with locked_folder(path, "--out", "process"):
        refuse_other_than_latents(path)
        _clear_files(path)
        _clear_results(path)
        _write_about(path, {**about, _LATENTS: True})
        yield


def refuse_other_than_latents(path: Path) -> None:
    """Refuses a folder that holds something else than a result of `sae label`.

    Raises:
        UserError: saying what.
    """
    found = _known_scan(path)
    if found and not found.get(_LATENTS):
        raise UserError(
            f"{path}: holds a scan of {found.get('model') or 'a model'}, which is no result of "
            "clipjax sae label. Name another folder."
        )
    refuse_other_files(path, _RESULTS)


def _clear_scan(path: Path) -> None:
    """Removes a scan, and what was found in it.

    Raises:
        UserError: if one of its controls is being scanned.
    """
    with contextlib.ExitStack() as stack:
        for lock in sorted((path / CONTROLS).glob(f"*/{LOCK}")):
            stack.enter_context(locked_folder(lock.parent, "--out", "process"))
        _clear_files(path)
        _clear_results(path)
        shutil.rmtree(path / CONTROLS, ignore_errors=True)


def _clear_results(path: Path) -> None:
    for name in _RESULTS:
        (path / name).unlink(missing_ok=True)


def _write_about(path: Path, about: Mapping[str, Any]) -> None:
    """Says whose the folder is, before anything else is written: a killed scan is one too."""
    (path / _WORK).mkdir(exist_ok=True)
    with replaced(path / _WORK / _ABOUT) as file:
        file.write(json.dumps(about, indent=1).encode())


def _clear_files(path: Path) -> None:
    for name in (RECORD, CONCEPTS):
        (path / name).unlink(missing_ok=True)
    # about.json stays until another one takes its place: what is left is known to be of a scan.
    for name in (f"{_WORK}/states", FACETS, ACTIVATIONS, SUMMARIES):
        shutil.rmtree(path / name, ignore_errors=True)


def _known_scan(path: Path) -> Mapping[str, Any]:
    """Returns what is known of the scan in a folder; nothing if there is none."""
    record = _object(path / RECORD) or {}
    schema = record.get("schema")
    told = {name: record[name] for name in ("model", "stimuli") if name in record}
    if schema is not None and schema != SCHEMA:
        return {**told, "schema": schema}
    about = path / _WORK / _ABOUT
    if about.is_file():
        return _object(about) or {"model": "a model that is not known (damaged)"}
    if schema is None:
        return {}
    latents = all(str(name).startswith("sae:") for name in record.get("paths", ("",)))
    return {"model": "another program", **told, _LATENTS: latents}


def _object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
