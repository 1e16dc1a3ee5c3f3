"""Which parameters a run trains: towers that are locked, patterns that freeze, LoRA.

Everything is decided by names, before anything is computed: the step takes gradients of the trained
parameters only, and only they have moments.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from clipjax.config import DualEncoderConfig, OptimConfig, UsageError, did_you_mean
from clipjax.core.stacks import is_stacked, layer_names

Shape = tuple[int, ...]
Trained = bool | tuple[bool, ...]
"""Of one parameter; of each layer where only some layers of a stacked parameter are trained."""

LORA = "lora/"
"""What the names of low-rank factors begin with."""

_BEHIND = ("norm", "pool", "head", "hidden", "project")
_BEHIND_BERT = ("pooler", "hidden", "project")  # its `norm` is that of the embeddings

_STAGE = re.compile(r"^stages/(\d+)/(?:blocks/stack/)?(\d+)?")
_BLOCK = re.compile(r"^blocks/(?:stack/)?(\d+)/")
_BETWEEN_STAGES = re.compile(r"^(?:norms|downs)/(\d+)/")

Place = tuple[int, int]
"""Stage and block."""


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
    layers = {name: _layers(name, shape) for name, shape in shapes.items()}
    names = list(dict.fromkeys(name for parts in layers.values() for name in parts))
    on = dict.fromkeys(names, True)
    if config.lora.rank:
        on |= {name: name.startswith(LORA) for name in names}
    for tower, blocks in (("image", config.lock_image), ("text", config.lock_text)):
        if blocks is not None:
            on |= dict.fromkeys(_locked(tower, blocks, names, model), False)
    for pattern in config.freeze:
        on |= dict.fromkeys(_matching(pattern, names), pattern.startswith("!"))
    if not any(on.values()):
        raise UsageError(
            "config.optim: freeze, lock_image, lock_text and lora leave no parameter to train. "
            "Name what is trained after all with '!' in config.optim.freeze."
        )
    found: dict[str, Trained] = {}
    for name, parts in layers.items():
        each = tuple(on[part] for part in parts)
        found[name] = each if len(set(each)) > 1 else each[0]
    return found


def layer_mask(layers: tuple[bool, ...], shape: Shape) -> jax.Array:
    """Returns which numbers of a stacked parameter are trained, to be broadcast."""
    return jnp.array(layers).reshape(-1, *(1,) * (len(shape) - 1))


def _layers(name: str, shape: Shape) -> list[str]:
    """Returns the names of the layers of a parameter; its own if it is no stack."""
    return layer_names(name, shape[0]) if is_stacked(name) else [name]


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    bare = pattern.removeprefix("!")
    found = [name for name in names if fnmatch.fnmatchcase(name, bare)]
    if not found:
        raise UsageError(
            f"config.optim.freeze: {pattern!r} matches no parameter.{did_you_mean(bare, names)} "
            "`clipjax inspect` lists the names; '*' stands for anything."
        )
    return found


def _locked(tower: str, blocks: int, names: Iterable[str], model: DualEncoderConfig) -> list[str]:
    """Returns the names of all parameters of a tower before its last `blocks` blocks."""
    of_tower = [name for name in names if name.startswith(f"{tower}/")]
    if not blocks:
        return of_tower
    bert = tower == "text" and model.text.kind == "bert"
    places = _places(tower, of_tower, _BEHIND_BERT if bert else _BEHIND)
    known = sorted({place for place in places.values() if isinstance(place, tuple)})
    if blocks > len(known):
        raise UsageError(
            f"config.optim.lock_{tower}={blocks}: the {tower} tower has {len(known)} blocks. None "
            "trains all of it."
        )
    last = known[-blocks:]
    return [name for name in of_tower if places[name] != "behind" and places[name] not in last]


def _places(tower: str, names: Iterable[str], behind: tuple[str, ...]) -> dict[str, Place | str]:
    """Returns the block that each parameter belongs to, or "front" or "behind"."""
    names = list(names)
    first = {
        name.split("/")[2]
        for name in names
        if name.startswith(f"{tower}/stages/") and "/first/" in name
    }
    found: dict[str, Place | str] = {}
    for name in names:
        inner = name.removeprefix(f"{tower}/")
        if inner.split("/")[0] in behind:
            found[name] = "behind"
        elif match := _STAGE.match(inner):
            # What stands before the blocks of a stage, and a ResNet's first block, is block 0.
            block = int(match[2]) + (match[1] in first) if match[2] else 0
            found[name] = int(match[1]), block
        elif match := _BETWEEN_STAGES.match(inner):
            found[name] = int(match[1]) + 1, 0
        elif match := _BLOCK.match(inner):
            found[name] = 0, int(match[1])
        else:
            found[name] = "front"
    return found
