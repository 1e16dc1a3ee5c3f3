"""Which units a model has, and which facets of stimuli run them."""

from collections.abc import Mapping, Sequence
from typing import get_args

from clipjax.config import DualEncoderConfig, UserError
from clipjax.interpret.facets import Facet, Tower
from clipjax.models import unit_paths

TOWERS: tuple[Tower, ...] = get_args(Tower)
SHARED = "shared"


def check_units(config: DualEncoderConfig, path: str, units: Sequence[int]) -> None:
    """Refuses units that the model does not have.

    Raises:
        UserError: naming the nearest path, or how many units there are.
    """
    found = unit_paths(config, [path])
    if path not in found:
        raise UserError(f"{path!r} is a pattern: name one path, such as {next(iter(found))}.")
    for unit in units:
        if not 0 <= unit < found[path]:
            raise UserError(f"{path} has units 0 to {found[path] - 1}, not {unit}.")
    if not units:
        raise UserError(f"{path}: no units are named.")


def towers_of(path: str) -> tuple[str, ...]:
    """Returns the towers that run the units of a path."""
    tower = path.partition("/")[0]
    return TOWERS if tower == SHARED else (tower,)


def running(path: str, facets: Mapping[str, Facet]) -> dict[str, Facet]:
    """Returns the facets whose tower runs a path.

    Raises:
        UserError: if there is none.
    """
    found = {n: facet for n, facet in facets.items() if facet.rows.tower in towers_of(path)}
    if not found:
        raise UserError(
            f"{path}: no facet runs it. There are "
            f"{', '.join(f'{n} ({one.rows.tower})' for n, one in facets.items()) or 'none'}."
        )
    return found
