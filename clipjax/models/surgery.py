"""A trained model made fit for another shape: image size, context, vocabulary, projection, tower.

Each function takes the config and the flat parameters (statistics of batch norm too, where there
are some) and returns the new config and parameters, on the host. What is not named keeps every bit.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from clipjax.config import DualEncoderConfig, UserError, did_you_mean
from clipjax.models.params import init_model_state, init_params, param_shapes

Arrays = dict[str, np.ndarray]
Part = Literal["image", "text"]
Model = tuple[DualEncoderConfig, Arrays]

_PROJECTION = ("project", "hidden")
_PROJECTIONS = {"convnext": ("head",), "resnet": ("pool/out",)}


def resize_image(config: DualEncoderConfig, params: Mapping[str, Any], image_size: int) -> Model:
    """Returns the model for images of another size: its learned positions are resampled.

    The grid of positions is resized by an antialiased bicubic filter (Keys, a = -0.5), that of a
    class token stays: open_clip's `resize_pos_embed`. Positions that are computed, rotary ones or
    sines, and towers without any need no change. `resize_side` keeps its ratio to the image size.

    Args:
        config: of the model.
        params: of the model.
        image_size: side of the square input in pixels.

    Raises:
        UserError: if the tower cannot have this size.
    """
    old = config.image.image_size
    side = config.resize_side and max(round(config.resize_side * image_size / old), image_size)
    new = _replaced(config, "image", {"image_size": image_size}, resize_side=side)
    arrays = _host(params)
    for name in _changed(new, arrays):
        arrays[name] = moved_positions(config, new, name, arrays[name])
    return new, arrays


def moved_positions(
    old: DualEncoderConfig,
    new: DualEncoderConfig,
    name: str,
    table: np.ndarray,
    *,
    how: Literal["interpolate", "truncate"] = "interpolate",
) -> np.ndarray:
    """Returns a table of positions of a model for another image size or context length.

    Args:
        old: of the model that the table is of.
        new: of the model that it is for.
        name: of the parameter.
        table: the parameter.
        how: see `resize_context`.

    Raises:
        UserError: if the parameter is no such table, or positions would have to be invented.
    """
    shape = param_shapes(new)[name]
    if not name.endswith("positions") or table.ndim != 2 or table.shape[1:] != shape[1:]:
        sizes = f"image_size={new.image.image_size}, context_length={new.text.context_length}"
        raise UserError(
            f"{name} would be {list(shape)} with {sizes} and is {list(table.shape)}: only "
            "positions can be resampled."
        )
    if name.startswith("image/"):
        return resampled_positions(table, shape[0])
    length = old.text.context_length
    return _moved_text_positions(name, table, length, shape[0], how=how)


def position_maps(old: DualEncoderConfig, new: DualEncoderConfig) -> dict[str, np.ndarray]:
    """Returns for each table of positions of another length the matrix that makes it, float32.

    Args:
        old: of the model that the tables are of.
        new: the same model for smaller images or shorter texts.

    Returns:
        Matrices [rows of the new table, rows of the old one] by the names of the parameters; image
        positions are resampled, of text positions the first are taken.

    Raises:
        UserError: if the models differ in more than positions.
    """
    before, maps = param_shapes(old), {}
    for name, shape in param_shapes(new).items():
        if shape == before[name]:
            continue
        rows = np.eye(before[name][0], dtype=np.float32)
        if not name.endswith("positions") or shape[1:] != before[name][1:]:
            moved_positions(old, new, name, rows)  # says what is wrong
        if name.startswith("image/"):
            maps[name] = resampled_positions(rows, shape[0])
        else:
            length = old.text.context_length
            maps[name] = _moved_text_positions(name, rows, length, shape[0], how="truncate")
    return maps


def with_positions(
    maps: Mapping[str, np.ndarray], params: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns the parameters with the positions that `position_maps` makes of theirs."""
    resized = {n: jnp.asarray(table) @ params[n] for n, table in maps.items() if n in params}
    return {**params, **resized}


def _moved_text_positions(
    name: str, table: np.ndarray, old: int, rows: int, *, how: str
) -> np.ndarray:
    length = rows - (len(table) - old)  # a class token has a row behind those of the text
    if how == "truncate":
        if len(table) < rows:
            raise UserError(
                f"context_length={length}: {name} has {len(table)} rows and cannot be truncated to "
                "more. Interpolate them."
            )
        return np.concatenate([table[:length], table[old:]])
    weights = _weights(old, length, _linear, antialias=False)
    grown = (weights @ table[:old].astype(np.float64)).astype(table.dtype)
    return np.concatenate([grown, table[old:]])


def resampled_positions(
    table: Float[np.ndarray, "rows width"], rows: int
) -> Float[np.ndarray, "new_rows width"]:
    """Returns the positions of a square grid of another size; a class token before it stays.

    Args:
        table: row by row, one row for a class token in front or none.
        rows: of the new table, with the class token if there is one.
    """
    side = math.isqrt(len(table))
    front = len(table) - side**2
    new_side = math.isqrt(rows - front)
    grid = table[front:].astype(np.float64).reshape(side, side, -1)
    weights = _weights(side, new_side, _cubic, antialias=True)
    grid = np.einsum("ai,bj,ijd->abd", weights, weights, grid, optimize=True)
    return np.concatenate([table[:front], grid.reshape(new_side**2, -1).astype(table.dtype)])


def resize_context(
    config: DualEncoderConfig,
    params: Mapping[str, Any],
    context_length: int,
    *,
    how: Literal["interpolate", "truncate"] = "interpolate",
) -> Model:
    """Returns the model for texts of another length.

    Args:
        config: of the model.
        params: of the model.
        context_length: tokens of a text.
        how: positions are interpolated linearly over the whole length (open_clip's
            `resize_text_pos_embed`), or the first ones are kept as they are: right for texts that
            were shorter than the context anyway.

    Raises:
        UserError: if positions would have to be invented.
    """
    new = _replaced(config, "text", {"context_length": context_length})
    arrays = _host(params)
    for name in _changed(new, arrays):
        arrays[name] = moved_positions(config, new, name, arrays[name], how=how)
    return new, arrays


def grow_vocabulary(
    config: DualEncoderConfig, params: Mapping[str, Any], vocab_size: int, *, seed: int
) -> Model:
    """Returns the model with more token ids; old ids keep their rows.

    New rows are drawn, channel by channel, with the mean and the deviation of the old ones. An end
    of text that was the last id keeps its number: `text.end_id` becomes explicit.

    Args:
        config: of the model.
        params: of the model.
        vocab_size: not less than before.
        seed: of the new rows.

    Raises:
        UserError: if the vocabulary would shrink.
    """
    old = config.text.vocab_size
    if vocab_size < old:
        raise UserError(f"vocab_size={vocab_size} is less than the {old} ids of the model.")
    fields: dict[str, Any] = {"vocab_size": vocab_size}
    if config.text.kind == "transformer" and config.text.end_id is None:
        fields["end_id"] = config.text.eot_id
    head = config.matching and dataclasses.replace(config.matching, vocab_size=vocab_size)
    new = _replaced(config, "text", fields, matching=head)
    arrays = _host(params)
    stream = np.random.default_rng(seed)
    for name, shape in _changed(new, arrays).items():
        axis = [a == b for a, b in zip(arrays[name].shape, shape, strict=True)].index(False)
        table = np.moveaxis(arrays[name], axis, 0)
        drawn = stream.normal(size=(shape[axis] - len(table), *table.shape[1:]))
        rows = table.mean(axis=0) + table.std(axis=0) * drawn
        table = np.concatenate([table, rows.astype(table.dtype)])
        arrays[name] = np.ascontiguousarray(np.moveaxis(table, 0, axis))
    return new, arrays


def replace_projection(
    config: DualEncoderConfig,
    params: Mapping[str, Any],
    part: Part,
    *,
    seed: int,
    projection: bool | str | None = None,
    embed_dim: int | None = None,
) -> Model:
    """Returns the model with a new map from a tower to the shared space, another kind, or none.

    Args:
        config: of the model.
        params: of the model.
        part: whose projection.
        seed: of the initial numbers.
        projection: another value of the tower's field `projection`: False ("none" for BERT) drops
            the map, and the shared space must be as wide as the tower.
        embed_dim: of a new shared space; what else has its width is drawn anew too.

    Raises:
        UserError: if the towers would not fit together.
    """
    tower = getattr(config, part)
    if projection is not None and not hasattr(tower, "projection"):
        raise UserError(
            f"config.model.{part}.kind={tower.kind!r} has one kind of projection only; leave out "
            f"projection={projection!r}."
        )
    fields = {} if projection is None else {"projection": projection}
    new = _replaced(config, part, fields, embed_dim=embed_dim or config.embed_dim)
    kept = _host(params)
    heads = tuple(f"{part}/{name}/" for name in _PROJECTIONS.get(tower.kind, _PROJECTION))
    kept = {name: array for name, array in kept.items() if not name.startswith(heads)}
    fresh = ("image/*", "text/*", "self_distill/crops/layers/0/*")
    return new, fitted(new, kept, seed=seed, fresh=fresh)


def replace_tower(
    config: DualEncoderConfig,
    params: Mapping[str, Any],
    part: Part,
    tower: Mapping[str, Any],
) -> Arrays:
    """Returns the parameters with those of one tower taken from elsewhere.

    Args:
        config: of the model.
        params: of the model.
        part: which tower.
        tower: its parameters by our names, `image/...`; what is missing, such as the projection,
            stays as it is in `params`. See `clipjax.interchange.single_tower`.

    Raises:
        UserError: if a name or a shape is not of this tower.
    """
    arrays, given = _host(params), _host(tower)
    shapes = param_shapes(config)
    for name, array in given.items():
        if name not in shapes or not name.startswith(f"{part}/"):
            known = [n for n in shapes if n.startswith(f"{part}/")]
            raise UserError(
                f"{name} is no parameter of the {part} tower.{did_you_mean(name, known)}"
            )
        if array.shape != shapes[name]:
            raise UserError(f"{name} is {list(array.shape)}, expected {list(shapes[name])}.")
    return arrays | given


def fitted(
    config: DualEncoderConfig,
    params: Mapping[str, Any],
    *,
    seed: int,
    fresh: Iterable[str] = (),
) -> Arrays:
    """Returns the parameters of a model: those given where they fit, others drawn if allowed.

    Args:
        config: of the new model.
        params: by name; those that the model does not have are left out.
        seed: of what is drawn.
        fresh: patterns (`fnmatch`) of names that may be drawn.

    Raises:
        UserError: if something is missing or of another shape and may not be drawn.
    """
    arrays, shapes = _host(params), param_shapes(config)
    missing = [n for n, shape in shapes.items() if n not in arrays or arrays[n].shape != shape]
    refused = [n for n in missing if not any(fnmatch.fnmatchcase(n, p) for p in fresh)]
    if refused:
        found = [
            f"{n} ({'missing' if n not in arrays else list(arrays[n].shape)}, "
            f"expected {list(shapes[n])})"
            for n in refused[:8]
        ]
        raise UserError(f"{len(refused)} parameters do not fit the model: {', '.join(found)}.")

    def draw() -> dict[str, jax.Array]:
        whole = init_params(config, seed) | init_model_state(config)
        return {name: whole[name] for name in missing}

    # Under jit nothing but what is missing is drawn.
    drawn = _host(jax.jit(draw)()) if missing else {}
    return {name: drawn[name] if name in drawn else arrays[name] for name in shapes}


def _host(params: Mapping[str, Any]) -> Arrays:
    return {name: np.asarray(array) for name, array in params.items()}


def _replaced(
    config: DualEncoderConfig, part: str, fields: Mapping[str, Any], **own: Any
) -> DualEncoderConfig:
    try:
        tower: Any = dataclasses.replace(getattr(config, part), **fields)
        if "context_length" in fields:
            own = config.of_length(fields["context_length"]) | own
        return dataclasses.replace(config, **{part: tower}, **own)
    except ValueError as error:
        raise UserError(f"config.model.{part}: {error}.") from error


def _changed(
    config: DualEncoderConfig, arrays: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
    """Returns shapes by name of the parameters that the new model has in another shape."""
    shapes = param_shapes(config)
    absent = sorted(shapes.keys() - arrays.keys())
    if absent:
        raise UserError(
            f"the parameters are not those of the config: {absent[0]} is missing"
            f"{f' and {len(absent) - 1} more' if len(absent) > 1 else ''}."
        )
    return {n: shape for n, shape in shapes.items() if arrays[n].shape != shape}


def _weights(
    old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray], *, antialias: bool
) -> Float[np.ndarray, "new old"]:
    """Returns the weights of the cells of a line for those of a line of another length.

    Antialiased, the kernel is as wide as the coarser of both cells, and what lies beyond the ends
    is left out; otherwise the last cell counts for it.
    """
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    if not antialias:
        centres = np.clip(centres, 0, old - 1)
    stretch = max(old / new, 1.0) if antialias else 1.0
    weights = kernel((np.arange(old) - centres[:, None]) / stretch)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -0.5, as Pillow and torch have it where they antialias."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _linear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0.0)
