"""What a run tells of its units while it trains."""

import dataclasses
from typing import Literal

from clipjax.config.fields import check_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronsConfig:
    """Emergence curves: `neurons/...` among the metrics, see `clipjax.interpret.emergence`.

    The model is shown stimuli before the first step, every so many steps, and after the last one.
    Training is the same with and without.

    Attributes:
        every_steps: steps between looks; 0 for none at all.
        stimuli: "emoji-world", which comes with the package; a folder of `clipjax data emoji
            --facets`, or other stimuli of `clipjax neurons scan`, relative to `data.root`.
        units: paths of units, with `*`; what no tower of the model has is an error.
        pool: how the places of a unit (tokens, places of a map) become one number.
        batch_size: pictures or texts of one compiled call over all devices.
    """

    every_steps: int = 0
    stimuli: str = "emoji-world"
    units: tuple[str, ...] = ("image/*act*", "shared/embed")
    pool: Literal["max", "mean", "cls", "eot"] = "max"
    batch_size: int = 256

    def __post_init__(self):
        if self.every_steps < 0:
            raise ValueError(f"every_steps={self.every_steps} must not be negative")
        if not self.units:
            raise ValueError("units=() names none: leave it out, or set every_steps=0")
        check_positive(batch_size=self.batch_size)
