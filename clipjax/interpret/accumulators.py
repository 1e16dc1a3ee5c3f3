"""What a scan keeps of the activations that pass by, on the devices: each holds some of the units.

The edges between bins come from the first stimuli, the pilot. Everything else is a sum, a count or
an extreme that a batch changes where it is: devices say nothing to each other.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8

from clipjax.core.mesh import replicated
from clipjax.interpret.summaries import UnitSummary, quantile_edges

State = dict[str, jax.Array]
"""By name: arrays [units, ...], and `rows`, how many stimuli they are of."""

_EMPTY = 2**30  # stands, and all above it, for exemplars that there are not
_FEW = 256  # units that are not worth to be taken out
_CENTRED = ("sum", "sum_rest", "squares", "squares_rest")


class Accumulators:
    """Makes, feeds and reads the state of the units of one facet.

    Args:
        mesh: the units are split over all its axes.
        units: how many there are.
        concepts: how many rank sums are kept of each.
        bins: of the histogram.
        exemplars: largest and least activations that are kept.
    """

    def __init__(self, mesh: Mesh, units: int, *, concepts: int, bins: int, exemplars: int):
        self._mesh, self.units = mesh, units
        self._concepts, self._bins, self._exemplars = concepts, bins, exemplars
        self.padded = -(-units // mesh.size) * mesh.size
        self._by_unit = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self.by_column = NamedSharding(mesh, PartitionSpec(None, mesh.axis_names))
        specs = {name: place.spec for name, place in self._places().items()}
        whole = PartitionSpec()
        self._add = jax.jit(
            jax.shard_map(
                _add,
                mesh=mesh,
                in_specs=(specs, self.by_column.spec, whole, whole),
                out_specs=(specs, self.by_column.spec),
                check_vma=False,
            ),
            donate_argnums=0,
        )

    def begin(self, pilot: Float[np.ndarray, "rows units"]) -> State:
        """Returns the state before the first stimulus, the pilot included.

        Args:
            pilot: activations of some stimuli: bins hold about the same number of them, and their
                ranks stand for those of all.
        """
        units, missing = self.units, self.padded - self.units
        edges = quantile_edges(pilot, self._bins)
        state = {name: np.zeros(shape, kind) for name, (shape, kind) in self._shapes().items()}
        state["edges"] = np.pad(edges, ((0, missing), (0, 0)))
        state["place"][:units] = _ranks_of_bins(pilot, edges)
        state["shift"][:units] = pilot.mean(axis=0, dtype=np.float64)
        state["low"][:], state["high"][:] = np.inf, -np.inf
        state["top_values"][:], state["bottom_values"][:] = -np.inf, np.inf
        # All different, so that one of them at a time makes room.
        empty = _EMPTY + np.arange(self._exemplars, dtype=np.int32)[:, None]
        state["top_rows"][:] = state["bottom_rows"][:] = empty
        places = self._places()
        return {name: jax.device_put(array, places[name]) for name, array in state.items()}

    def add(
        self,
        state: State,
        activations: Float[Array, "rows padded"],
        rows: Int[np.ndarray, " rows"],
        labels: Bool[np.ndarray, "rows concepts"],
    ) -> tuple[State, UInt8[Array, "rows padded"]]:
        """Returns the state with some stimuli more, and their codes; the old state is gone.

        Args:
            state: not to be used again.
            activations: finite, with `by_column`.
            rows: which stimuli they are; those of -1 do not count.
            labels: of these stimuli.
        """
        whole = replicated(self._mesh)
        placed = [jax.device_put(array, whole) for array in (rows.astype(np.int32), labels)]
        return self._add(state, activations, *placed)

    def like(self) -> Any:
        """Returns the shapes and places of a state, to restore one."""
        places = self._places()
        return {
            name: jax.ShapeDtypeStruct(shape, kind, sharding=places[name])
            for name, (shape, kind) in self._shapes().items()
        }

    def summary(self, state: dict[str, np.ndarray]) -> UnitSummary:
        """Returns what is known of all units.

        Args:
            state: on the host.
        """
        own = {name: array[..., : self.units] for name, array in state.items() if name != "rows"}
        own |= {name: state[name][: self.units] for name in ("edges", "counts")}
        total = int(state["rows"])
        wide = {name: own[name].astype(np.float64) for name in _CENTRED}
        first = (wide["sum"] + wide["sum_rest"]) / total
        second = (wide["squares"] + wide["squares_rest"]) / total
        top_rows, top_values = _sorted(own["top_rows"], own["top_values"], sign=-1)
        bottom_rows, bottom_values = _sorted(own["bottom_rows"], own["bottom_values"], sign=1)
        return UnitSummary(
            rows=total,
            mean=own["shift"] + first,
            deviation=np.sqrt(np.maximum(second - first**2, 0)),
            low=own["low"].astype(np.float64),
            high=own["high"].astype(np.float64),
            zeros=own["zeros"] / total,
            top_rows=top_rows,
            top_values=top_values,
            bottom_rows=bottom_rows,
            bottom_values=bottom_values,
            edges=own["edges"],
            counts=own["counts"].astype(np.int64),
        )

    def rank_sums(
        self, state: dict[str, np.ndarray], positives: Int[np.ndarray, " concepts"]
    ) -> Float[np.ndarray, "units concepts"]:
        """Returns sums of the ranks, from 1, of the stimuli of each concept, among all stimuli.

        A rank is that of the stimulus's bin in the pilot, stretched to all stimuli. The mean rank
        of all stimuli is known exactly, so what the pilot has it wrong is taken off.

        Args:
            state: on the host.
            positives: stimuli of each concept.
        """
        summary, total = self.summary(state), int(state["rows"])
        place = state["place"][: self.units].astype(np.float64)
        centre = (summary.counts * place).sum(axis=1) / total
        sums = state["rank_sums"][: self.units].astype(np.float64)
        return total * (sums - np.outer(centre, positives)) + positives * (total + 1) / 2

    def _shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        units, edges = self.padded, 2 * ((self._bins - 1) // 2)
        one, many = (units,), (self._exemplars, units)
        return {
            "rows": ((), np.int32),
            "shift": (one, np.float32),
            "edges": ((units, edges), np.float32),
            "place": ((units, edges + 1), np.float32),
            "counts": ((units, edges + 1), np.int32),
            **dict.fromkeys((*_CENTRED, "low", "high"), (one, np.float32)),
            "zeros": (one, np.int32),
            "top_values": (many, np.float32),
            "top_rows": (many, np.int32),
            "bottom_values": (many, np.float32),
            "bottom_rows": (many, np.int32),
            "rank_sums": ((units, self._concepts), np.float32),
        }

    def _places(self) -> dict[str, NamedSharding]:
        places = dict.fromkeys(self._shapes(), self._by_unit)
        for name in ("top_values", "top_rows", "bottom_values", "bottom_rows"):
            places[name] = self.by_column
        return places | {"rows": replicated(self._mesh)}


def _ranks_of_bins(
    pilot: Float[np.ndarray, "rows units"], edges: Float[np.ndarray, "units edges"]
) -> Float[np.ndarray, "units bins"]:
    """Returns the middle rank of each bin in the pilot, as a share from -1/2 to 1/2."""
    ordered = np.sort(pilot, axis=0).T
    below = np.stack(
        [np.searchsorted(column, edge) for column, edge in zip(ordered, edges, strict=True)]
    )
    bounds = (
        np.pad(below, ((0, 0), (1, 0))),
        np.pad(below, ((0, 0), (0, 1)), constant_values=len(pilot)),
    )
    return (bounds[0] + bounds[1]) / 2 / len(pilot) - 0.5


def _add(
    state: State,
    activations: Float[Array, "rows units"],
    rows: Int[Array, " rows"],
    labels: Bool[Array, "rows concepts"],
) -> tuple[State, UInt8[Array, "rows units"]]:
    """What each device does with its units."""
    valid = (rows >= 0)[:, None]
    # -0.0 has a place of its own where numbers are ordered by their bits.
    values = jnp.where(activations == 0, 0.0, activations)
    new = dict(state)
    centred = jnp.where(valid, values - state["shift"], 0)
    for name, terms in (("sum", centred), ("squares", centred**2)):
        new[name], new[f"{name}_rest"] = _added(
            state[name], state[f"{name}_rest"], terms.sum(axis=0)
        )
    new["low"] = jnp.minimum(state["low"], jnp.where(valid, values, jnp.inf).min(axis=0))
    new["high"] = jnp.maximum(state["high"], jnp.where(valid, values, -jnp.inf).max(axis=0))
    new["zeros"] += ((values == 0) & valid).sum(axis=0, dtype=jnp.int32)
    for name, sign in (("top", 1), ("bottom", -1)):
        kept = sign * state[f"{name}_values"], state[f"{name}_rows"]
        best, which = _largest(*kept, jnp.where(valid, sign * values, -jnp.inf), rows)
        new[f"{name}_values"], new[f"{name}_rows"] = sign * best, which
    codes = _codes(state["edges"], values.T)
    units = jnp.arange(len(codes))[:, None]
    new["counts"] = state["counts"].at[units, codes].add(valid.T.astype(jnp.int32))
    ranks = jnp.take_along_axis(state["place"], codes, axis=1)
    hot = (labels & valid).astype(jnp.float32)
    new["rank_sums"] += jnp.matmul(ranks, hot, precision=jax.lax.Precision.HIGH)
    new["rows"] += valid.sum(dtype=jnp.int32)
    return new, codes.T.astype(jnp.uint8)


def _codes(
    edges: Float[Array, "units edges"], values: Float[Array, "units rows"]
) -> Int[Array, "units rows"]:
    """Returns the bin of each number: how many edges are not above it."""
    # By their bits: the number next to 0, which ends the bin of zeros, is flushed to 0 otherwise.
    search = functools.partial(jnp.searchsorted, side="right", method="scan_unrolled")
    return jax.vmap(search)(_ordered_bits(edges), _ordered_bits(values))


def _ordered_bits(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """Returns integers in the order of the numbers."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _added(
    total: Float[Array, " units"], rest: Float[Array, " units"], terms: Float[Array, " units"]
) -> tuple[Float[Array, " units"], Float[Array, " units"]]:
    """Returns a sum and what float32 has no room for in it; together they lose nothing.

    Source: Knuth 1969, "The Art of Computer Programming", volume 2, section 4.2.2, theorem B.
    """
    sums = total + terms
    virtual = sums - total
    return sums, rest + ((total - (sums - virtual)) + (terms - virtual))


def _largest(
    values: Float[Array, "exemplars units"],
    rows: Int[Array, "exemplars units"],
    more: Float[Array, "rows units"],
    more_rows: Int[Array, " rows"],
) -> tuple[Float[Array, "exemplars units"], Int[Array, "exemplars units"]]:
    """Returns the largest of what is kept and what is new, in no order; of equal ones smaller rows.

    One exemplar of each unit is replaced at a time, until no new one is better: after the first
    batches there are few, and to sort takes longer. Once few units are left, these are taken out,
    so that the last ones do not cost what all do.
    """
    units = values.shape[1]
    few = min(units, max(_FEW, units // 8))
    rest = _Rest.of(values, rows, more, more_rows)
    rest = jax.lax.while_loop(lambda rest: rest.better.sum() > few, _Rest.replaced, rest)
    left = jnp.flatnonzero(rest.better, size=few, fill_value=units)
    some = jax.lax.while_loop(lambda some: some.better.any(), _Rest.replaced, rest.of_units(left))
    put = functools.partial(_put_columns, columns=left)
    return put(rest.values, some.values), put(rest.rows, some.rows)


class _Rest(NamedTuple):
    """Exemplars, and what may still replace some of them.

    Attributes:
        values: that are kept, [exemplars, units].
        rows: theirs.
        more: new ones, [rows, units]; -inf where one was taken.
        numbers: their rows, [rows, 1].
        best: of the new ones, by unit; its row, and that of the exemplar which would make room.
        better: whether it is to be taken.
    """

    values: Array
    rows: Array
    more: Array
    numbers: Array
    best: Array
    best_row: Array
    worst_row: Array
    better: Array

    @classmethod
    def of(cls, values: Array, rows: Array, more: Array, numbers: Array) -> "_Rest":
        """Returns what is next to be replaced."""
        numbers = numbers.reshape(-1, 1)
        best, worst = more.max(axis=0), values.min(axis=0)
        best_row = jnp.where(more == best, numbers, _EMPTY).min(axis=0)
        worst_row = jnp.where(values == worst, rows, -1).max(axis=0)
        better = (best > worst) | ((best == worst) & (best_row < worst_row))
        better &= best > -jnp.inf
        return cls(values, rows, more, numbers, best, best_row, worst_row, better)

    def replaced(self) -> "_Rest":
        """Returns the exemplars with one of each unit replaced, where one is better."""
        place = self.better & (self.rows == self.worst_row)
        more = jnp.where(self.numbers == self.best_row, -jnp.inf, self.more)
        values = jnp.where(place, self.best, self.values)
        rows = jnp.where(place, self.best_row, self.rows)
        return self.of(values, rows, more, self.numbers)

    def of_units(self, units: Int[Array, " some"]) -> "_Rest":
        """Returns those of some units; a unit that is none has nothing to be replaced."""
        last = self.better.size - 1

        def taken(whole: Array) -> Array:
            return whole[..., jnp.minimum(units, last)]

        return self._replace(
            values=taken(self.values),
            rows=taken(self.rows),
            more=taken(self.more),
            best=taken(self.best),
            best_row=taken(self.best_row),
            worst_row=taken(self.worst_row),
            better=taken(self.better) & (units <= last),
        )


def _put_columns(whole: Array, part: Array, *, columns: Array) -> Array:
    return whole.at[:, columns].set(part, mode="drop")


def _sorted(
    rows: Int[np.ndarray, "exemplars units"],
    values: Float[np.ndarray, "exemplars units"],
    *,
    sign: int,
) -> tuple[Int[np.ndarray, "units exemplars"], Float[np.ndarray, "units exemplars"]]:
    """Returns the exemplars with the first one first; -1 and NaN where there are fewer."""
    order = np.lexsort((rows, sign * values), axis=0)
    rows = np.take_along_axis(rows, order, axis=0).T.astype(np.int64)
    values = np.take_along_axis(values, order, axis=0).T.astype(np.float64)
    missing = rows >= _EMPTY
    return np.where(missing, -1, rows), np.where(missing, np.nan, values)
