"""Where each of our parameters stands in the files of another codebase.

A format is a list of entries, and an entry says which tensors there hold one parameter here and
how their axes differ. Reading and writing are the two directions of the same entry, so that a round
trip gives every bit back.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from clipjax.config.errors import UserError

Kind = Literal["same", "bias", "linear", "conv", "temperature"]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """Which part of a tensor is ours, where it holds several of our parameters.

    Attributes:
        first: the first axis is divided into equal parts; the first of ours.
        last: the first one behind ours.
        of: how many parts there are.
        stacked: the first axis counts the parts and is not in ours (the layers of a scan).
    """

    first: int
    last: int
    of: int
    stacked: bool = False

    def whole(self, part: Shape) -> Shape:
        """Returns the shape of the tensor from that of the part."""
        if self.stacked:
            return self.of, *part
        return part[0] * self.of // (self.last - self.first), *part[1:]

    def taken(self, tensor: np.ndarray) -> np.ndarray:
        """Returns the part, a view."""
        if self.stacked:
            return tensor[self.first]
        size = len(tensor) // self.of
        return tensor[self.first * size : self.last * size]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One parameter here and the tensors there that hold it.

    Attributes:
        ours: name of our parameter, layers unrolled.
        theirs: names of their tensors; several are slices of ours along `stack_axis`.
        kind: same: the numbers in the same order; bias: in one axis there; linear: [outputs,
            inputs] there, our kernel has the inputs first; conv: [outputs, inputs, height, width]
            there, [height, width, inputs, outputs] here; temperature: a positive number there, the
            logarithm of its inverse here, in float64, see `rest`.
        input_axes: of a linear map, how many leading axes of our kernel are inputs.
        stack_axis: of several tensors, the axis of our parameter that counts them.
        shape: of each of their tensors where it does not follow from ours (`same` only).
        rest: name of our statistic that holds what float32 has no room for in the parameter
            (`temperature` only): the logarithms of float32 numbers are closer to each other than
            float32 numbers are, but not than sums of two.
        piece: the part of each of their tensors that is ours; all of it by default. Entries that
            share a tensor follow each other, in the order of their pieces.
    """

    ours: str
    theirs: tuple[str, ...]
    kind: Kind = "same"
    input_axes: int = 1
    stack_axis: int | None = None
    shape: Shape | None = None
    rest: str | None = None
    piece: Piece | None = None

    def their_shape(self, our_shape: Shape) -> Shape:
        """Returns the shape of each of their tensors."""
        part = self._their_part(our_shape)
        return part if self.piece is None else self.piece.whole(part)

    def _their_part(self, our_shape: Shape) -> Shape:
        part = self._part(our_shape)
        if self.shape is not None:
            return self.shape
        if self.kind == "linear":
            inputs, outputs = part[: self.input_axes], part[self.input_axes :]
            return math.prod(outputs), math.prod(inputs)
        if self.kind == "bias":
            return (math.prod(part),)
        if self.kind == "conv":
            return part[3], part[2], part[0], part[1]
        return part

    def read(self, tensors: Sequence[np.ndarray], our_shape: Shape) -> np.ndarray:
        """Returns our parameter; a view of their tensor where the axes allow it."""
        part = self._part(our_shape)
        if self.piece is not None:
            tensors = [self.piece.taken(tensor) for tensor in tensors]
        if self.kind == "linear":
            parts = [tensor.T.reshape(part) for tensor in tensors]
        elif self.kind == "conv":
            parts = [tensor.transpose(2, 3, 1, 0) for tensor in tensors]
        elif self.kind == "temperature":
            parts = [_log_inverse(tensor.reshape(part), self.theirs[0]) for tensor in tensors]
        else:
            parts = [tensor.reshape(part) for tensor in tensors]
        return parts[0] if self.stack_axis is None else np.stack(parts, axis=self.stack_axis)

    def write(self, parameter: np.ndarray) -> list[np.ndarray]:
        """Returns their tensors, or our pieces of them, contiguous."""
        if self.stack_axis is None:
            parts = [parameter]
        else:
            parts = list(np.moveaxis(parameter, self.stack_axis, 0))
        shape = self._their_part(parameter.shape)
        if self.kind == "linear":
            parts = [part.reshape(shape[::-1]).T for part in parts]
        elif self.kind == "conv":
            parts = [part.transpose(3, 2, 0, 1) for part in parts]
        elif self.kind == "temperature":
            parts = [np.exp(-part.astype(np.float64)).astype(np.float32) for part in parts]
        else:
            parts = [part.reshape(shape) for part in parts]
        return [np.asarray(part, order="C") for part in parts]  # a scalar stays one

    def _part(self, our_shape: Shape) -> Shape:
        if self.stack_axis is None:
            return our_shape
        return our_shape[: self.stack_axis] + our_shape[self.stack_axis + 1 :]


def _log_inverse(temperature: np.ndarray, name: str) -> np.ndarray:
    if not np.all((temperature > 0) & np.isfinite(temperature)):
        raise UserError(f"{name}={temperature}: expected a positive number. The file is damaged.")
    # Minus the logarithm of 1 would be minus zero.
    return np.asarray(0.0 - np.log(temperature.astype(np.float64)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """All tensors of a model in one format.

    Attributes:
        format: its name, for messages.
        entries: one for each of our parameters and statistics.
        ignored: patterns (`fnmatch`) of tensors that may stand there and hold no parameter.
        fixed: tensors that the format wants besides; what they hold follows from the config.
    """

    format: str
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...] = ()
    fixed: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def same(ours: str, theirs: str, shape: Shape | None = None) -> Entry:
    """Returns the entry of a tensor that holds the same numbers in the same order."""
    return Entry(ours=ours, theirs=(theirs,), shape=shape)


def norm(ours: str, theirs: str) -> tuple[Entry, ...]:
    """Returns the entries of a LayerNorm, `weight` and `bias` there."""
    return same(f"{ours}/scale", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")


def linear(ours: str, theirs: str, *, bias: bool = True, input_axes: int = 1) -> tuple[Entry, ...]:
    """Returns the entries of a linear map, `weight` and `bias` there."""
    weight = Entry(
        ours=f"{ours}/kernel", theirs=(f"{theirs}.weight",), kind="linear", input_axes=input_axes
    )
    return (weight, *flat_bias(ours, theirs)) if bias else (weight,)


def flat_bias(ours: str, theirs: str) -> tuple[Entry, ...]:
    """Returns the entry of a bias, one axis there and any number here."""
    return (Entry(ours=f"{ours}/bias", theirs=(f"{theirs}.bias",), kind="bias"),)


def stacked_linear(ours: str, theirs: Sequence[str]) -> tuple[Entry, ...]:
    """Returns the entries of linear maps that stand apart there and in one kernel here.

    Our kernel is [inputs, maps, *outputs], our bias [maps, *outputs].
    """
    return (
        Entry(
            ours=f"{ours}/kernel",
            theirs=tuple(f"{name}.weight" for name in theirs),
            kind="linear",
            stack_axis=1,
        ),
        Entry(
            ours=f"{ours}/bias",
            theirs=tuple(f"{name}.bias" for name in theirs),
            kind="bias",
            stack_axis=0,
        ),
    )


def conv(ours: str, theirs: str, *, bias: bool = False) -> tuple[Entry, ...]:
    """Returns the entries of a convolution, `weight` and `bias` there."""
    weight = Entry(ours=f"{ours}/kernel", theirs=(f"{theirs}.weight",), kind="conv")
    return (weight, same(f"{ours}/bias", f"{theirs}.bias")) if bias else (weight,)


def batch_norm(ours: str, theirs: str) -> tuple[Entry, ...]:
    """Returns the entries of a batch norm with its running statistics."""
    return (
        *norm(ours, theirs),
        same(f"{ours}/mean", f"{theirs}.running_mean"),
        same(f"{ours}/variance", f"{theirs}.running_var"),
    )


def query_and_key_value(query: str, key_value: str, theirs: str) -> tuple[Entry, ...]:
    """Returns the entries of attention whose three maps are one matrix there.

    `in_proj_weight` and `in_proj_bias` of torch's MultiheadAttention: queries, keys, values.

    Args:
        query: our map to the queries, [inputs, heads, channels].
        key_value: our map to keys and values, [inputs, 2, heads, channels].
        theirs: the module.
    """
    kinds: tuple[tuple[str, str, Kind], ...] = (
        ("kernel", "weight", "linear"),
        ("bias", "bias", "bias"),
    )
    return tuple(
        Entry(ours=f"{ours}/{leaf}", theirs=(f"{theirs}.in_proj_{end}",), kind=kind, piece=piece)
        for leaf, end, kind in kinds
        for ours, piece in (
            (query, Piece(first=0, last=1, of=3)),
            (key_value, Piece(first=1, last=3, of=3)),
        )
    )


def joined(*parts: Layout) -> Layout:
    """Returns the layout of a model made of the layouts of its parts."""
    return Layout(
        format=parts[0].format,
        entries=tuple(entry for part in parts for entry in part.entries),
        ignored=tuple(pattern for part in parts for pattern in part.ignored),
        fixed={name: array for part in parts for name, array in part.fixed.items()},
    )
