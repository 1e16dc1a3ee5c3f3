"""Which parameters a run trains: towers that are locked, patterns that freeze, LoRA.

Everything is decided by names, before anything is computed: the step takes gradients of the trained
parameters only, and only they have moments.
"""

from collections.abc import Iterable, Mapping

from clipjax.config import DualEncoderConfig, OptimConfig, TrainConfig, UsageError
from clipjax.optim.names import (
    LORA,
    Shape,
    blocks_of,
    by_parameter,
    layers_of,
    matching,
    places,
)

Trained = bool | tuple[bool, ...]
"""Of one parameter; of each layer where only some layers of a stacked parameter are trained."""


def trained(
    config: OptimConfig, model: DualEncoderConfig, shapes: Mapping[str, Shape]
) -> dict[str, Trained]:
    """Returns for each parameter whether it is trained.

    With `compute.scan_layers` the layers of a stack are one parameter. If only some of them are
    trained it has moments for all; the update of the others is left out.

    Args:
        config: locks, patterns and LoRA.
        model: whose names these are.
        shapes: of all parameters, low-rank factors included.

    Raises:
        UsageError: if a pattern matches no parameter, a tower has fewer blocks than are to stay
            unlocked, or nothing is left to train.
    """
    layers = layers_of(shapes)
    names = list(dict.fromkeys(name for parts in layers.values() for name in parts))
    on = dict.fromkeys(names, True)
    if config.lora.rank:
        on |= {name: name.startswith(LORA) for name in names}
    for tower, blocks in (("image", config.lock_image), ("text", config.lock_text)):
        if blocks is not None:
            on |= dict.fromkeys(_locked(tower, blocks, names, model), False)
    for pattern in config.freeze:
        on |= dict.fromkeys(matching("freeze", pattern, names), pattern.startswith("!"))
    if not any(on.values()):
        raise UsageError(
            "config.optim: freeze, lock_image, lock_text and lora leave no parameter to train. "
            "Name what is trained after all with '!' in config.optim.freeze."
        )
    return by_parameter(layers, on)


def trained_in_run(config: TrainConfig, shapes: Mapping[str, Shape]) -> dict[str, Trained]:
    """Returns for each parameter whether any stage trains it, heads of an idle objective left out.

    Args:
        config: of the run, or of a stage.
        shapes: of all parameters, low-rank factors included.

    Raises:
        UsageError: see `trained`.
    """
    found: dict[str, Trained] = dict.fromkeys(shapes, False)
    for part in config.parts:
        own, idle = part.config, part.config.self_distill.idle
        on = trained(own.optim, own.model, shapes)
        found = {n: _either(found[n], not n.startswith(idle) and on[n]) for n in found}
    return found


def _either(one: Trained, other: Trained) -> Trained:
    if isinstance(one, bool):
        return one or other
    if isinstance(other, bool):
        return other or one
    layers = tuple(a or b for a, b in zip(one, other, strict=True))
    return all(layers) or layers


def _locked(tower: str, blocks: int, names: Iterable[str], model: DualEncoderConfig) -> list[str]:
    """Returns the names of all parameters of a tower before its last `blocks` blocks."""
    of_tower = [name for name in names if name.startswith(f"{tower}/")]
    if not blocks:
        return of_tower
    found = places(tower, of_tower, model)
    known = blocks_of(found)
    if blocks > len(known):
        raise UsageError(
            f"config.optim.lock_{tower}={blocks}: the {tower} tower has {len(known)} blocks. None "
            "trains all of it."
        )
    last = known[-blocks:]
    return [name for name in of_tower if found[name] != "behind" and found[name] not in last]
