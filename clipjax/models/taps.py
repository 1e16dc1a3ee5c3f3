"""Reads and writes the activations of named units while a model runs.

A path names what one call of a tower computes once: `image/blocks/11/mlp_act`,
`image/stages/2/blocks/0/out`, `text/blocks/0/mlp_act`, `shared/embed` (`clipjax.models.unit_paths`
lists those of a model). Model code says where: `x = tap("mlp_act", x)`, which is the identity and
leaves no trace in the program while no taps are open.

>>> import jax.numpy as jnp
>>> def tower(x):
...     return in_tower("image", lambda x: 2 * tap("units", x))(x)
>>> result, reads = tapped(tower, read={"image/*": "max"})(jnp.ones((1, 3, 2)))
>>> {path: array.tolist() for path, array in reads.items()}
{'image/units': [[1.0, 1.0]]}
"""

import contextlib
import contextvars
import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, Float

from clipjax.config.errors import UsageError, UserError, did_you_mean

REDUCTIONS = ("all", "max", "mean", "cls", "eot")
MODES = ("replace", "add")

Reduction = str | Callable[[Array], Array]
Write = tuple[str, Any] | tuple[str, Any, Sequence[int]]
"""A mode, a value or a function, and to which units; all by default."""
Marks = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Open:
    """What is asked for, and where the program is.

    Attributes:
        read: reduction by pattern; the last pattern that fits counts.
        write: by pattern; all that fit, in order.
        seen: channels of every path that came by.
        reads: what was read in this trace, by path; in a scan by path of all layers and pattern.
        trace: that `reads` belongs to.
        scope: what stands before the names; None outside of the towers. `#` is a layer of a scan.
        layers: inside a scan, the number of this layer, which is traced, and those of all.
        marks: of the tower, see `mark`.
    """

    read: Mapping[str, Reduction]
    write: Mapping[str, Write]
    seen: dict[str, int]
    reads: dict[Any, Array]
    trace: Any
    scope: str | None = None
    layers: tuple[Array, range] | None = None
    marks: dict[str, Any] = dataclasses.field(default_factory=dict)


_OPEN: contextvars.ContextVar[_Open | None] = contextvars.ContextVar("taps", default=None)


@contextlib.contextmanager
def taps(
    *, read: Mapping[str, Reduction] | None = None, write: Mapping[str, Write] | None = None
) -> Iterator[dict[str, Array]]:
    """Opens taps for one call of each tower in this thread; yields what is read, by path.

    Open them in the function that is traced, or use `tapped`. What is read is what was written.

    Args:
        read: by path, or pattern with `*`, how the places of a unit (tokens, or places of a map)
            become one number: "max" or "mean" over those that count (no padding, nothing behind
            the end of a text), "cls" or "eot" for one of them, all float32; "all" for
            [batch, places, units] as they are, or a function of that. What has no places stays as
            it is. Of several patterns that fit the last counts.
        write: by path or pattern, ("replace", value) or ("add", value), for some units
            ("replace", value, [133, 7]): an array that broadcasts to [batch, places, units], or a
            function of these activations. In the order given.

    Raises:
        UserError: if a pattern fits nothing of what was run, or a value or unit does not fit.
        UsageError: if taps are open already, or the model runs in another trace than this one.
    """
    if _OPEN.get() is not None:
        raise UsageError("taps are open already: open them once, with all reads and writes.")
    read, write = dict(read or {}), dict(write or {})
    for path, how in read.items():
        if not callable(how):
            _check_known(path, how, REDUCTIONS)
    for path, (mode, *_) in write.items():
        _check_known(path, mode, MODES)
    opened = _Open(read=read, write=write, seen={}, reads={}, trace=get_opaque_trace_state())
    with _as_open(opened):
        yield opened.reads
    for pattern in (*read, *write):
        check_found(pattern, opened.seen)


def tapped(
    function: Callable[..., Any],
    *,
    read: Mapping[str, Reduction] | None = None,
    write: Mapping[str, Write] | None = None,
) -> Callable[..., tuple[Any, dict[str, Array]]]:
    """Returns a function that gives the result of `function` and what was read, to be compiled.

    Args:
        function: calls the model; not compiled itself.
        read: as of `taps`.
        write: as of `taps`.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Array]]:
        with taps(read=read, write=write) as reads:
            result = function(*args, **kwargs)
        return result, reads

    return run


def writing(function: Callable[..., Any], write: Mapping[str, Write] | None) -> Callable[..., Any]:
    """Returns a function whose activations are written; the function itself if none are."""
    if not write:
        return function
    run = tapped(function, write=write)
    return lambda *args: run(*args)[0]


def units_run(function: Callable[..., Any], *args: Any) -> dict[str, int]:
    """Returns the width of every path that a call runs; it is traced, not computed.

    Args:
        function: calls the model.
        args: of the call; arrays or `jax.ShapeDtypeStruct`s.
    """
    seen: dict[str, int] = {}

    def run(*args: Any) -> Any:
        opened = _Open(read={}, write={}, seen=seen, reads={}, trace=get_opaque_trace_state())
        with _as_open(opened):
            return function(*args)

    jax.eval_shape(run, *args)
    return seen


def check_found(pattern: str, paths: Mapping[str, int]) -> None:
    """Refuses a pattern that none of the paths fits.

    Raises:
        UserError: naming the nearest path.
    """
    if not paths:
        raise UserError(
            f"taps: nothing was run that {pattern!r} could be. What was compiled before taps were "
            "open does not see them: compile tapped(function) instead."
        )
    if not fnmatch.filter(paths, pattern):
        raise UserError(
            f"taps: {pattern!r} is nothing that was run.{did_you_mean(pattern, paths)} "
            "unit_paths(config) lists what a model has."
        )


def _check_known(path: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise UsageError(f"taps: {path!r}: {word!r} is none of {', '.join(map(repr, known))}.")


@contextlib.contextmanager
def _as_open(opened: _Open) -> Iterator[None]:
    token = _OPEN.set(opened)
    try:
        yield
    finally:
        _OPEN.reset(token)


def in_tower(name: str, tower: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the tower, whose paths begin with its name, to be called at once."""
    opened = _OPEN.get()
    if opened is None:
        return tower
    return _opened_as(dataclasses.replace(opened, scope=name, marks={}), tower)


def within(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, whose paths in a tower go on with `part`, to be called at once."""
    opened = _OPEN.get()
    if opened is None or opened.scope is None:
        return function
    return _opened_as(dataclasses.replace(opened, scope=f"{opened.scope}/{part}"), function)


def _opened_as(opened: _Open, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _as_open(opened):
            return function(*args, **kwargs)

    return run


def mark(make: Callable[[], Marks]) -> None:
    """Says of the tokens of this tower which count in a reduction and where the special ones are.

    Args:
        make: gives `counted`, bool [batch, tokens]; `cls` and `eot`, a place or one for each row.
            All tokens count, and there are no special ones, where nothing is said. Not called
            while no taps are open.
    """
    opened = _OPEN.get()
    if opened is not None:
        opened.marks.update(make())


def tap(name: str, x: Array) -> Array:
    """Returns the activations, or what taps make of them.

    Args:
        name: below the parts that the program is within; with a slash, the whole path.
        x: [batch, places of one or two axes, units], or [batch, units].
    """
    opened = _OPEN.get()
    if opened is None or (opened.scope is None and "/" not in name):
        return x
    if opened.trace != get_opaque_trace_state():
        raise UsageError(
            "taps were opened outside of the function that jax.jit or jax.grad traces here: open "
            "them inside, or transform tapped(function)."
        )
    path = name if "/" in name else f"{opened.scope}/{name}"
    paths = _layer_paths(opened, path)
    opened.seen.update(dict.fromkeys(paths, x.shape[-1]))
    for pattern, write in opened.write.items():
        hit = [fnmatch.fnmatchcase(each, pattern) for each in paths]
        if all(hit):
            x = _written(pattern, write, x)
        elif any(hit):
            assert opened.layers is not None  # only layers of a scan are several paths
            change = functools.partial(_written, pattern, write)
            x = jax.lax.cond(jnp.asarray(hit)[opened.layers[0]], change, lambda x: x, x)
    for pattern in dict.fromkeys(_pattern_of(opened, each) for each in paths):
        if pattern is not None:
            key = path if opened.layers is None else (path, pattern)
            _keep(opened, key, _reduced(path, opened.read[pattern], x, opened.marks))
    return x


def _layer_paths(opened: _Open, path: str) -> list[str]:
    if opened.layers is None:
        return [path]
    return [path.replace("#", str(number)) for number in opened.layers[1]]


def _pattern_of(opened: _Open, path: str) -> str | None:
    fits = [pattern for pattern in opened.read if fnmatch.fnmatchcase(path, pattern)]
    return fits[-1] if fits else None


def _keep(opened: _Open, key: Any, array: Array) -> None:
    if key in opened.reads:
        raise UsageError(f"taps: {key!r} was run twice: open taps once for each call of a tower.")
    opened.reads[key] = array


def _written(path: str, write: Write, x: Array) -> Array:
    mode, value, *rest = write
    units = jnp.asarray(rest[0], jnp.int32) if rest else None
    if rest and not all(0 <= unit < x.shape[-1] for unit in rest[0]):
        raise UserError(f"taps: {path!r} has units 0 to {x.shape[-1] - 1}, not {list(rest[0])}.")
    old = x if units is None else x[..., units]
    value = jnp.asarray(value(old) if callable(value) else value)
    try:
        value = jnp.broadcast_to(value, old.shape).astype(x.dtype)
    except ValueError:
        raise UserError(
            f"taps: {path!r}: a value of shape {value.shape} does not broadcast to the "
            f"activations, {old.shape}."
        ) from None
    new = value if mode == "replace" else old + value
    return new if units is None else x.at[..., units].set(new)


def _reduced(path: str, how: Reduction, x: Array, marks: Marks) -> Array:
    if callable(how):
        return how(x)
    if how == "all":
        return x
    x = x.astype(jnp.float32)
    if x.ndim == 2:
        return x
    counted = marks.get("counted")
    if how == "mean":
        axes = tuple(range(1, x.ndim - 1))
        return x.mean(axes, where=None if counted is None else counted[..., None])
    if how == "max":
        x = x if counted is None else jnp.where(counted[..., None], x, -jnp.inf)
        return _largest(x.reshape(x.shape[0], -1, x.shape[-1]))
    place = marks.get(how)
    if place is None:
        raise UserError(f"taps: {path!r} has no {how!r} token: take 'max', 'mean' or 'all'.")
    place = jnp.broadcast_to(jnp.asarray(place), x.shape[:1])
    return jnp.take_along_axis(x, place[:, None, None], axis=1)[:, 0]


@jax.custom_jvp
def _largest(x: Float[Array, "batch places units"]) -> Float[Array, "batch units"]:
    return x.max(axis=1)


@_largest.defjvp
def _largest_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # By its place: XLA may compute what is compared twice and round it differently, and then the
    # gradient of a maximum is NaN.
    place = primals[0].argmax(axis=1, keepdims=True)
    return _largest(primals[0]), jnp.take_along_axis(tangents[0], place, axis=1)[:, 0]


def leaving(
    transform: Callable[[Callable[..., Any]], Callable[..., Any]], function: Callable[..., Any]
) -> Callable[..., Any]:
    """Returns transform(function); what is read inside leaves as an output.

    Args:
        transform: such as `jax.checkpoint`.
        function: has taps inside.
    """
    if _OPEN.get() is None:
        return transform(function)

    def run(*args: Any) -> Any:
        outer = _OPEN.get()
        assert outer is not None

        # A function of this call alone: a transformation would take the trace of another layer.
        def inner(*args: Any) -> Any:
            opened = dataclasses.replace(outer, reads={}, trace=get_opaque_trace_state())
            with _as_open(opened):
                return function(*args), opened.reads

        result, reads = transform(inner)(*args)
        for key, array in reads.items():
            _keep(outer, key, array)
        return result

    return run


def scan_layers(
    body: Callable[[Any, Any], tuple[Any, Any]], x: Any, stack: Any, numbers: range
) -> tuple[Any, Any]:
    """Equals `jax.lax.scan(body, x, stack)`; the taps of each layer have its name.

    Args:
        body: runs a layer.
        x: what goes through.
        stack: the layers.
        numbers: of the layers, as they stand in paths.
    """
    opened = _OPEN.get()
    if opened is None or opened.scope is None:
        return jax.lax.scan(body, x, stack)

    def tapped_body(x: Any, numbered: Any) -> Any:
        place, layer = numbered
        inner = dataclasses.replace(
            opened, layers=(place, numbers), reads={}, trace=get_opaque_trace_state()
        )
        with _as_open(inner):
            x, moved = within("#", body)(x, layer)
        return x, (moved, inner.reads)

    places = jnp.arange(len(numbers))
    x, (moved, reads) = jax.lax.scan(tapped_body, x, (places, stack))
    for (path, pattern), arrays in reads.items():
        for number, array in zip(numbers, arrays, strict=True):
            own = path.replace("#", str(number))
            if _pattern_of(opened, own) == pattern:
                _keep(opened, own, array)
    return x, moved
