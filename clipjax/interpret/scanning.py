"""Shows a model all stimuli once and keeps how each of its units answered."""

import dataclasses
import fnmatch
import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax

from clipjax.config import DualEncoderConfig, UsageError, UserError, did_you_mean
from clipjax.core.mesh import batch_devices
from clipjax.inference.load import Model
from clipjax.interpret.accumulators import Accumulators
from clipjax.interpret.facets import FacetRows, Tower
from clipjax.interpret.scan_facet import FacetScan, Programs, Settings
from clipjax.interpret.scan_files import Scan, ScanRecord, Store
from clipjax.interpret.scan_folder import ScanFolder
from clipjax.interpret.scan_tower import ScanTower, tower_paths
from clipjax.interpret.stimuli import Stimuli
from clipjax.interpret.summaries import BINS, EXEMPLARS
from clipjax.models.units import unit_paths

Pool = Literal["max", "mean", "cls", "eot"]

PILOT = 2048
_SAVE_EVERY = 200  # batches
_MOST_EXACT_BYTES = 4 << 30
_MOST_CODES = 256
_MOST_SEEDS = 1 << 63


def scan(  # noqa: PLR0913 (each is a choice of the user)
    model: Model,
    stimuli: Stimuli,
    *,
    out: str | os.PathLike[str],
    units: Sequence[str] = (),
    pool: Pool = "max",
    k: int = EXEMPLARS,
    bins: int = BINS,
    pilot: int = PILOT,
    store: Store | Literal["auto"] = "auto",
    batch_size: int = 64,
    seed: int = 0,
    resume: bool = True,
    force: bool = False,
    name: str = "",
    save_every: int = _SAVE_EVERY,
) -> Scan:
    """Runs every sample of every facet through the model once, with taps open.

    Views of one stimulus are averaged. All that is kept of a unit but its stored activations is of
    a size that does not grow with the stimuli. A scan that was killed goes on where it last saved,
    and gives what it would have given. With several processes all call it, and process 0 writes.

    Args:
        model: whose units are looked at; its mesh is used.
        stimuli: what it is shown.
        out: the folder to write; see `scan_files`.
        units: paths or patterns with `*`; by default the hidden units of the image tower's
            MLPs (`image/*/mlp_act`; the outputs of blocks where there are none) and `shared/embed`.
        pool: how the places of a unit (tokens, or places of a map) become one number.
        k: exemplars that are kept of each unit, the largest and the least.
        bins: of histograms and codes, 3 to 256.
        pilot: bins follow from so many stimuli, drawn at random.
        store: keep activations as they are ("exact", float32), as the bin that each is in
            ("codes", one byte), or not ("none"); "auto" keeps up to 4 GiB exactly, else codes.
        batch_size: samples of one call on each device, so that all devices together round as one
            alone does.
        seed: of the order of the stimuli.
        resume: go on with what a killed scan of the same has left.
        force: replace what is there of another scan.
        name: of the model, for the record.
        save_every: batches between two saves.

    Returns:
        The scan; one that is whole already is not done again.

    Raises:
        UserError: if a unit is unknown (with the nearest name), an activation is not finite (with
            unit and stimulus), a picture does not decode, or `out` holds another scan, files that
            are not of a scan, or one that another process is writing.
        UsageError: for a setting that cannot be.
    """
    started = time.monotonic()
    paths = _paths_by_facet(model, stimuli, units)
    widths = {path: width for of_facet in paths.values() for path, width in of_facet.items()}
    _check(pool, k, bins, pilot, batch_size, save_every, seed)
    settings = Settings(
        pilot=pilot,
        store=_store(store, {n: (stimuli.facets[n].rows, p) for n, p in paths.items()}),
        seed=seed,
        save_every=save_every,
    )
    record = ScanRecord(
        model=name,
        identity=model.identity,
        step=model.step,
        config=dataclasses.asdict(model.config),
        stimuli=stimuli.name,
        paths=widths,
        facets={facet: tuple(of_facet) for facet, of_facet in paths.items()},
        pool=pool,
        store=settings.store,
        bins=bins,
        exemplars=k,
        seed=seed,
        devices=_devices(model.encoder.mesh),
        reading=dict(stimuli.reading),
    )
    about = _about(record, stimuli, pilot)
    record = dataclasses.replace(record, key=about["key"])
    folder = ScanFolder(Path(out), about)
    programs: dict[Tower, Programs] = {}
    with folder.held():
        if folder.begin(record, resume=resume, force=force):
            return Scan(out)
        for facet in paths:
            if folder.has(record, facet):
                continue
            tower = stimuli.facets[facet].rows.tower
            if tower not in programs:
                programs[tower] = _programs_of(
                    model, stimuli, tower, paths[facet], record, batch_size
                )
            FacetScan(
                stimuli.facets[facet],
                model.config,
                model.params,
                model.tokenizer,
                programs[tower],
                settings,
                folder.path,
                folder.states,
            ).run()
        seconds = round(time.monotonic() - started, 3)
        folder.finish(dataclasses.replace(record, seconds=seconds), stimuli.concepts)
    return Scan(out)


def _paths_by_facet(
    model: Model, stimuli: Stimuli, units: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Returns the units that each facet runs; facets that run none are left out."""
    patterns = list(units) or _default_units(model)
    there = unit_paths(model.config)
    for pattern in patterns:
        if not fnmatch.filter(there, pattern):
            told = dict.fromkeys(re.sub(r"/\d+/", "/*/", path) for path in there)
            raise UserError(
                f"units: {pattern!r} fits no unit of the model.{did_you_mean(pattern, there)} "
                f"There are {', '.join(told)}."
            )
    found = {
        name: tower_paths(model.config, facet.rows.tower, patterns)
        for name, facet in stimuli.facets.items()
    }
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        towers = sorted({facet.rows.tower for facet in stimuli.facets.values()})
        raise UserError(
            f"{stimuli.name}: none of {', '.join(patterns)} is run by the facets that are scanned, "
            f"which are of the {' and '.join(towers)} tower. Name other units or facets."
        )
    return found


def _programs_of(
    model: Model,
    stimuli: Stimuli,
    tower: Tower,
    paths: Mapping[str, int],
    record: ScanRecord,
    batch_size: int,
) -> Programs:
    facets = [one.rows for one in stimuli.facets.values() if one.rows.tower == tower]
    joins = any(rows.samples > len(rows.stimuli) for rows in facets)
    mesh = model.encoder.mesh
    size = batch_size * batch_devices(mesh)
    sizes = len(stimuli.concepts), record.bins, record.exemplars
    return _programs(
        model.config, tower, tuple(paths.items()), record.pool, mesh, size, joins, *sizes
    )


@functools.lru_cache(maxsize=4)  # a model and its controls share them
def _programs(
    config: DualEncoderConfig,
    tower: Tower,
    paths: tuple[tuple[str, int], ...],
    pool: str,
    mesh: jax.sharding.Mesh,
    batch_size: int,
    joins: bool,
    concepts: int,
    bins: int,
    exemplars: int,
) -> Programs:
    runs = ScanTower(
        config, tower, dict(paths), pool=pool, mesh=mesh, batch_size=batch_size, joins=joins
    )
    sums = Accumulators(mesh, runs.units, concepts=concepts, bins=bins, exemplars=exemplars)
    return runs, sums


def _default_units(model: Model) -> list[str]:
    there = unit_paths(model.config)
    hidden = any(p.startswith("image/") and p.endswith("/mlp_act") for p in there)
    return ["image/*/mlp_act" if hidden else "image/*/out", "shared/embed"]


def _check(
    pool: str, k: int, bins: int, pilot: int, batch_size: int, save_every: int, seed: int
) -> None:
    if pool not in get_args(Pool):
        raise UsageError(f"pool={pool!r}: is none of {', '.join(get_args(Pool))}.")
    if not 3 <= bins <= _MOST_CODES:
        raise UsageError(f"bins={bins}: wanted 3 to {_MOST_CODES}, so that a code is a byte.")
    for what, number in (
        ("k", k),
        ("pilot", pilot),
        ("batch_size", batch_size),
        ("save_every", save_every),
    ):
        if number < 1:
            raise UsageError(f"{what}={number}: is not positive.")
    if not 0 <= seed < _MOST_SEEDS:
        raise UsageError(f"seed={seed}: wanted 0 to 2**63 - 1.")


def _store(
    store: Store | Literal["auto"], facets: Mapping[str, tuple[FacetRows, Mapping[str, int]]]
) -> Store:
    if store in get_args(Store):
        return store  # type: ignore[return-value]
    if store != "auto":
        raise UsageError(f"store={store!r}: is none of auto, {', '.join(get_args(Store))}.")
    numbers = sum(len(rows.stimuli) * sum(paths.values()) for rows, paths in facets.values())
    return "exact" if 4 * numbers <= _MOST_EXACT_BYTES else "codes"


def _devices(mesh: jax.sharding.Mesh) -> str:
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind}"


def _about(record: ScanRecord, stimuli: Stimuli, pilot: int) -> dict[str, Any]:
    """Returns what makes two scans the same, as plain values."""
    fields = dataclasses.asdict(record)
    for name in ("seconds", "devices", "config", "model", "step", "reading", "key"):
        del fields[name]
    order = list(record.paths)  # a mapping of JSON has none
    fields |= {"digest": stimuli.digest, "pilot": pilot, "order": order}
    key = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return {"key": key, "model": record.model, "stimuli": record.stimuli}
