"""From the tensors of a file to our parameters and back, one at a time."""

import dataclasses
import fnmatch
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from clipjax.config import DualEncoderConfig, UserError, did_you_mean
from clipjax.core.stacks import is_stacked, layer_names, stack_of, stacked
from clipjax.interchange.layout import Layout, Shape
from clipjax.models import param_shapes

_SHOWN = 12


@runtime_checkable
class Tensors(Protocol):
    """The tensors of one file or of several, read when they are asked for."""

    source: str
    """Path or address, for messages."""

    def shapes(self) -> Mapping[str, Shape]:
        """Returns the shape of every tensor by name."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Returns the numbers of a tensor; may be a view of the file."""
        ...


def unrolled(config: DualEncoderConfig) -> DualEncoderConfig:
    """Returns the config with a parameter for each layer, as files name them."""
    return dataclasses.replace(
        config, compute=dataclasses.replace(config.compute, scan_layers=False)
    )


def rolled(config: DualEncoderConfig) -> DualEncoderConfig:
    """Returns the config with the layers of a stack in one parameter."""
    compute = dataclasses.replace(config.compute, scan_layers=True)
    return dataclasses.replace(config, compute=compute)


def unrolled_shapes(config: DualEncoderConfig) -> dict[str, Shape]:
    """Returns the shapes of parameters and statistics, a name for each layer, as files have them.

    >>> from clipjax.config import preset
    >>> unrolled_shapes(preset("ViT-S-32"))["image/blocks/stack/11/mlp/fc1/bias"]
    (1536,)
    """
    # One block stands for its whole stack: that takes a fraction of the time of making them all.
    shapes: dict[str, Shape] = {}
    for name, shape in param_shapes(rolled(config)).items():
        if is_stacked(name):
            shapes |= dict.fromkeys(layer_names(name, shape[0]), shape[1:])
        else:
            shapes[name] = shape
    return shapes


def check_tensors(layout: Layout, config: DualEncoderConfig, tensors: Tensors) -> None:
    """Raises UserError unless the file holds exactly the tensors of the model.

    All missing and unexpected names and all wrong shapes are told at once, with the nearest names.
    """
    ours, found = unrolled_shapes(config), tensors.shapes()
    wanted = {
        theirs: entry.their_shape(ours[entry.ours])
        for entry in layout.entries
        for theirs in entry.theirs
    }
    may_be = {name for name in found if any(fnmatch.fnmatch(name, p) for p in layout.ignored)}
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys() - may_be - layout.fixed.keys())
    wrong = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    if not (missing or unexpected or wrong):
        return
    parts = [
        _group(f"{len(missing)} missing", [n + did_you_mean(n, unexpected) for n in missing]),
        _group(f"{len(unexpected)} unexpected", unexpected),
        _group(
            f"{len(wrong)} of another shape",
            [f"{n} is {list(found[n])}, expected {list(wanted[n])}" for n in wrong],
        ),
    ]
    raise UserError(
        f"{tensors.source}: these are not the tensors of this model in {layout.format}'s names.\n"
        + "\n".join(part for part in parts if part)
    )


def _group(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n  ".join([f"{title}:", *lines[:_SHOWN], *more])


def read_params(
    layout: Layout, config: DualEncoderConfig, tensors: Tensors
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields our parameters and statistics by name, float32, layers as the config has them.

    Raises:
        UserError: if the file does not hold the tensors of the model; before anything is read.
    """
    check_tensors(layout, config, tensors)
    shapes = unrolled_shapes(config)

    def each() -> Iterator[tuple[str, np.ndarray]]:
        names: tuple[str, ...] = ()
        parts: list[np.ndarray] = []
        for entry in layout.entries:
            if entry.theirs != names:  # what several entries share is read once
                names, parts = entry.theirs, [tensors.read(name) for name in entry.theirs]
            array = entry.read(parts, shapes[entry.ours])
            yield entry.ours, array.astype(np.float32, copy=False)
            if entry.rest is not None:
                yield entry.rest, np.asarray(array - array.astype(np.float32), np.float32)

    return stacked(each()) if config.compute.scan_layers else each()


def written(
    layout: Layout, config: DualEncoderConfig, params: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields their tensors by name."""
    pieces: dict[str, list[np.ndarray]] = {}
    for entry in layout.entries:
        array = np.asarray(
            _layer_of(params, entry.ours) if config.compute.scan_layers else params[entry.ours]
        )
        if entry.rest is not None:
            array = np.asarray(array.astype(np.float64) + np.asarray(params[entry.rest]))
        for name, tensor in zip(entry.theirs, entry.write(array), strict=True):
            if entry.piece is None:
                yield name, tensor
                continue
            pieces.setdefault(name, []).append(tensor)
            if entry.piece.last == entry.piece.of:
                join = np.stack if entry.piece.stacked else np.concatenate
                yield name, join(pieces.pop(name))
    yield from layout.fixed.items()


def _layer_of(params: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    place = stack_of(name)
    return params[name] if place is None else params[place[0]][place[1]]
