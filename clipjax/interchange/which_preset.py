"""Which published model a file of weights is, found through names and shapes of its tensors."""

import fnmatch
from collections.abc import Mapping

from clipjax.config import PRESETS, DualEncoderConfig, UserError
from clipjax.interchange.formats import FORMATS, LAYOUTS, Options, layout_of
from clipjax.interchange.layout import Layout, Shape
from clipjax.interchange.transfer import Tensors, check_tensors, unrolled_shapes


def fitting_variant(
    preset_name: str, config: DualEncoderConfig, tensors: Tensors
) -> tuple[str, Options]:
    """Returns the format and the options under which a file holds the tensors of a model.

    Raises:
        UserError: if there are none; it names the presets that do fit.
    """
    best: tuple[int, str, Options] | None = None
    found = tensors.shapes()
    for name, options, layout in _layouts(config):
        if layout_fits(layout, config, found):
            return name, options
        shared = len(_names(layout) & found.keys())
        if best is None or shared > best[0]:
            best = (shared, name, options)
    if best is None:
        raise UserError(f"{tensors.source}: no format can hold the model {preset_name}.")
    _, name, options = best
    try:
        check_tensors(layout_of(name, config, **options), config, tensors)
    except UserError as error:
        raise UserError(wrong_model(error, config, tensors)) from error
    return name, options


def wrong_model(error: UserError, expected: DualEncoderConfig, tensors: Tensors) -> str:
    """Returns the message for weights of another model: which one it is, where one fits.

    Args:
        error: all that is missing, unexpected or of another shape.
        expected: the model that was asked for.
        tensors: of the file.
    """
    fits = [name for name in PRESETS if _preset_fits(name, tensors)]
    if not fits:
        return str(error)
    return (
        f"{tensors.source}: these weights are {' or '.join(fits)}: "
        f"{_first_difference(PRESETS[fits[0]], expected)}. Name the model that they are."
    )


def _preset_fits(name: str, tensors: Tensors) -> bool:
    config, found = PRESETS[name], tensors.shapes()
    return any(layout_fits(layout, config, found) for _, _, layout in _layouts(config))


def layout_fits(layout: Layout, config: DualEncoderConfig, found: Mapping[str, Shape]) -> bool:
    """Returns whether the tensors have the names and shapes of a model."""
    names = _names(layout)  # cost nothing; shapes need the model
    more = found.keys() - names - layout.fixed.keys()
    if not names <= found.keys() or not all(_is_ignored(layout, name) for name in more):
        return False
    ours = unrolled_shapes(config)
    return all(
        found[theirs] == entry.their_shape(ours[entry.ours])
        for entry in layout.entries
        for theirs in entry.theirs
    )


def _layouts(config: DualEncoderConfig):
    for name, kind in FORMATS.items():
        for options in kind.variants if name in LAYOUTS else ():
            try:
                yield name, options, layout_of(name, config, **options)
            except (KeyError, AssertionError, UserError):
                continue  # a tower that this format does not have


def _names(layout: Layout) -> set[str]:
    return {theirs for entry in layout.entries for theirs in entry.theirs}


def _is_ignored(layout: Layout, name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in layout.ignored)


def _first_difference(found: DualEncoderConfig, expected: DualEncoderConfig) -> str:
    ours, wanted = unrolled_shapes(found), unrolled_shapes(expected)
    for name, what in (("image/positions", "positions"), ("text/positions", "text positions")):
        if name in ours and name in wanted and ours[name][0] != wanted[name][0]:
            return f"{ours[name][0]} {what}, expected {wanted[name][0]}"
    for name in ours:
        if name not in wanted:
            return f"{name}, which is not expected"
        if ours[name] != wanted[name]:
            return f"{name} is {list(ours[name])}, expected {list(wanted[name])}"
    missing = sorted(wanted.keys() - ours.keys())
    return f"no {missing[0]}, which is expected" if missing else "the same shapes"
