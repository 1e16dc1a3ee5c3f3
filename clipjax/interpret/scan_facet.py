"""One facet of a scan: every sample through the model once, and on where a killed scan stopped."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipjax.config import CheckpointConfig, DualEncoderConfig, UserError
from clipjax.core.checkpoint import CheckpointReader, CheckpointWriter
from clipjax.core.distributed import broadcast_int, host_copy
from clipjax.core.progress import Progress
from clipjax.data.pipeline import Batches, one_by_one
from clipjax.data.tokenizers import Tokenizer
from clipjax.interpret.accumulators import Accumulators, State
from clipjax.interpret.activation_file import ActivationFile
from clipjax.interpret.facet_samples import FacetSamples, sample_spec
from clipjax.interpret.facets import Facet
from clipjax.interpret.scan_files import ACTIVATIONS, Store, write_rows, write_summary
from clipjax.interpret.scan_order import ScanBatch, ScanOrder
from clipjax.interpret.scan_tower import FINITE, ScanTower, text_length

_TYPES = {"exact": np.dtype("<f4"), "codes": np.dtype("u1")}
_QUIET_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How stimuli are scanned; see `scan`."""

    pilot: int
    store: Store
    seed: int
    save_every: int


Programs = tuple[ScanTower, Accumulators]
"""What facets of one tower share: to compile it takes longer than to run it on few samples."""


class FacetScan:
    """The pass over one facet.

    Args:
        facet: what is shown.
        config: of the model.
        params: of the model.
        tokenizer: of the model.
        programs: that run the tower of the facet.
        settings: of the scan.
        out: the folder of the scan; process 0 writes into it.
        states: folder for the state of this facet.
    """

    def __init__(
        self,
        facet: Facet,
        config: DualEncoderConfig,
        params: Mapping[str, jax.Array],
        tokenizer: Tokenizer,
        programs: Programs,
        settings: Settings,
        out: Path,
        states: Path,
    ):
        self._facet, self._rows = facet, facet.rows
        self._tower, self._sums = programs
        self._config, self._params, self._tokenizer = config, params, tokenizer
        self._settings, self._out, self._states = settings, out, states
        size = self._tower.batch_size
        self._order = ScanOrder(facet.owner, size, seed=settings.seed, facet=facet.rows.name)
        self._primary = jax.process_index() == 0
        self._folder = states / f"{facet.rows.name}.{size}.{self._tower.padded}"

    def run(self) -> None:
        """Scans; at the end the files of the facet are whole.

        Raises:
            UserError: if a sample cannot be used, or an activation is not finite.
        """
        first = self._saved()
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._file(anew=first == 0))
            saver = CheckpointWriter(self._folder, CheckpointConfig(keep=1), {})
            stack.callback(saver.close)
            batches = stack.enter_context(contextlib.closing(self._batches(first)))
            told = stack.enter_context(self._progress(first))
            state, carried = self._restored(saver, first)
            taken = _Taken(self, file)
            if state is None:
                state, carried, first = self._pilot(batches, taken, told)
            for number in range(first, self._order.batches):
                batch = self._order[number]
                units, carried, bad = self._tower(self._params, next(batches)["x"], batch, carried)
                state, codes = self._sums.add(state, units, batch.rows, self._labels(batch))
                taken.next(batch, units, codes, bad)
                told.advance(batch.count)
                if (number + 1) % self._settings.save_every == 0:
                    taken.all_on_disk()
                    saver.save(number + 1, {**state, "carried": carried})
            taken.all_on_disk()
        self._finish({name: host_copy(array) for name, array in state.items()})

    def name_of(self, unit: int) -> str:
        """Returns the name of a unit by its number in the facet."""
        for path, width in self._tower.paths.items():
            if unit < width:
                return f"{path}:{unit}"
            unit -= width
        raise IndexError(unit)

    def _pilot(
        self, batches: Batches, taken: "_Taken", told: Progress
    ) -> tuple[State, jax.Array, int]:
        """Runs the first stimuli, whose activations are kept until the bins follow from them."""
        kept: list[tuple[ScanBatch, np.ndarray]] = []
        carried, number, found = self._tower.start(), 0, 0
        while number < self._order.batches and found < self._settings.pilot:
            batch = self._order[number]
            units, carried, bad = self._tower(self._params, next(batches)["x"], batch, carried)
            self.check(batch, int(bad))
            kept.append((batch, host_copy(units)))
            found += int((batch.rows >= 0).sum())
            number += 1
            told.advance(batch.count)
        ended = [units[batch.rows >= 0, : self._tower.units] for batch, units in kept]
        state = self._sums.begin(np.concatenate(ended)[: self._settings.pilot])
        while kept:
            batch, held = kept.pop(0)
            units = jax.device_put(held, self._sums.by_column)
            state, codes = self._sums.add(state, units, batch.rows, self._labels(batch))
            taken.next(batch, units, codes, FINITE)
        return state, carried, number

    def check(self, batch: ScanBatch, bad: int) -> None:
        """Raises UserError if an activation of a batch is not finite.

        Args:
            batch: which samples.
            bad: see `ScanTower.__call__`.
        """
        if bad == FINITE:
            return
        place, unit = divmod(bad, self._tower.padded)
        row = self._facet.owner[batch.samples[place]]
        raise UserError(
            f"{self.name_of(unit)}: its activation is NaN or infinite for the stimulus "
            f"{self._rows.stimuli[row]} of the facet {self._rows.name}, expected finite numbers. "
            "Check that the weights are whole and did not diverge, or compute in float32 "
            "(model.compute.dtype). What was saved is kept."
        )

    def _labels(self, batch: ScanBatch) -> np.ndarray:
        return self._rows.labels[batch.rows] & (batch.rows >= 0)[:, None]

    def _batches(self, first: int) -> Batches:
        samples = FacetSamples(self._facet, self._tokenizer)
        local = self._tower.local_rows

        def fill(sample: int, row: Mapping[str, np.ndarray]) -> None:
            samples.fill(sample, row["x"])

        return Batches(
            lambda number: self._order[number].samples[local],
            one_by_one(fill),
            {"x": sample_spec(self._config, self._rows.tower, self._length())},
            first_step=min(first, self._order.batches - 1),
            stop_step=self._order.batches,
            ahead=1,
        )

    def _length(self) -> int:
        """Returns how many tokens texts are cut to."""
        if self._rows.tower == "image":
            return 0
        total, size = self._rows.samples, 4096
        most = 1
        for start in range(0, total, size):
            stop = min(start + size, total)
            texts = [self._tokenizer(self._facet.text(sample)) for sample in range(start, stop)]
            most = max(most, text_length(self._config, np.stack(texts)))
        return most

    def _progress(self, first: int) -> Progress:
        done = min(first * self._tower.batch_size, self._rows.samples)
        what = f"scanning {self._rows.name}"
        quiet = _QUIET_SECONDS if self._primary else np.inf
        return Progress(what, self._rows.samples - done, quiet_seconds=quiet)

    @contextlib.contextmanager
    def _file(self, *, anew: bool) -> Iterator[ActivationFile | None]:
        if not self._primary or self._settings.store == "none":
            yield None
            return
        path = self._out / ACTIVATIONS / f"{self._rows.name}.npy"
        dtype = _TYPES[self._settings.store]
        rows, units = len(self._rows.stimuli), self._tower.units
        file = ActivationFile(path, rows, units, dtype, anew=anew)
        try:
            yield file
        finally:
            file.close()

    def _saved(self) -> int:
        """Returns how many batches an earlier scan has done; -1 counts as none."""
        found = CheckpointReader(self._folder).newest_verified() if self._primary else None
        return broadcast_int(found or 0)

    def _restored(self, saver: CheckpointWriter, first: int) -> tuple[Any, Any]:
        if not first:
            return None, None
        carried = self._tower.start()
        like = {**self._sums.like(), "carried": _like(carried)}
        found = saver.restore(first, like)
        return {name: found[name] for name in like if name != "carried"}, found["carried"]

    def _finish(self, state: dict[str, np.ndarray]) -> None:
        if not self._primary:
            return
        write_rows(self._out, self._rows)
        positives = self._rows.labels.sum(axis=0)
        sums = self._sums.rank_sums(state, positives)
        write_summary(self._out, self._rows.name, self._sums.summary(state), sums)
        shutil.rmtree(self._folder, ignore_errors=True)


class _Taken:
    """Takes what a batch gave while the next one is computed: looks at it and writes it."""

    def __init__(self, scan: FacetScan, file: ActivationFile | None):
        self._scan, self._file = scan, file
        self._waiting: tuple[ScanBatch, Any, Any] | None = None
        self._writes_codes = scan._settings.store == "codes"
        self._keeps = scan._settings.store != "none"

    def next(self, batch: ScanBatch, units: Any, codes: Any, bad: Any) -> None:
        """Takes the batch before this one."""
        before, self._waiting = self._waiting, (batch, codes if self._writes_codes else units, bad)
        self._take(before)

    def all_on_disk(self) -> None:
        """Takes what is left; when this returns all of it is on the disk."""
        before, self._waiting = self._waiting, None
        self._take(before)
        if self._file is not None:
            self._file.flush()

    def _take(self, waiting: tuple[ScanBatch, Any, Any] | None) -> None:
        if waiting is None:
            return
        batch, numbers, bad = waiting
        self._scan.check(batch, int(bad))
        if not self._keeps:
            return
        found = host_copy(numbers)  # by all processes: each has some of the units
        if self._file is not None:
            ended = batch.rows >= 0
            self._file.write(batch.rows[ended], found[ended, : self._scan._tower.units])


def _like(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
