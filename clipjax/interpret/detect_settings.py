"""What `clipjax neurons test` is asked for: which facets, how sure, how strong, which controls."""

import dataclasses
from typing import Any, Literal

from clipjax.config.errors import UsageError
from clipjax.interpret.statistics.conjunction import FLOOR, STRICT_FLOOR
from clipjax.interpret.statistics.strata import BINS

Method = Literal["adafilter", "bh", "by"]

ROWS_OF_A_STRATUM = 10
"""Fewer stimuli than these would leave a positive hardly anything to be compared with."""

CONTROL_SHARE = 0.1
"""A control that finds this share of what the model finds has failed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectSettings:
    """How units are tested.

    Args:
        facets: that a unit must answer in; none for all that run the unit's path.
        units: paths, with `*`.
        rate: of false finds among the finds.
        method: how that rate is held.
        required: facets in which a concept must hold; all if None.
        strata: quantile bins of each confound, at most; 0 for none.
        floor: AUROC that the required facets must reach.
        strict: AUROC of the finds that are called strict.
        least: positives and negatives without which a concept is not tested in a facet; half of
            it, rounded up, in each half of the stimuli.
        level: p value that each required facet of the confirmation half must stay below.
        rotations: random bases that the axes are compared with.
        permutations: of the units of a facet.
        seed: of rotations and permutations.
        most: units that are listed, the strongest.

    Raises:
        UsageError: for numbers that cannot be.
    """

    facets: tuple[str, ...] = ()
    units: tuple[str, ...] = ("*",)
    rate: float = 0.05
    method: Method = "adafilter"
    required: int | None = None
    strata: int = BINS
    floor: float = FLOOR
    strict: float = STRICT_FLOOR
    least: int = 5
    level: float = 0.05
    rotations: int = 3
    permutations: int = 1000
    seed: int = 0
    most: int = 1000

    def __post_init__(self) -> None:
        for name in ("rate", "level"):
            if not 0 < getattr(self, name) < 1:
                shown = "q" if name == "rate" else name
                raise UsageError(f"{shown} is {getattr(self, name)}; expected between 0 and 1.")
        for name in ("floor", "strict"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected an AUROC, 0 to 1.")
        for name, low in (
            ("strata", 0),
            ("least", 1),
            ("rotations", 0),
            ("permutations", 0),
            ("seed", 0),
        ):
            if getattr(self, name) < low:
                raise UsageError(f"{name} is {getattr(self, name)}; expected {low} or more.")
        if self.most < 1 or (self.required is not None and self.required < 1):
            raise UsageError("required and most are 1 or more.")
        if self.method not in ("adafilter", "bh", "by"):
            raise UsageError(f"method is {self.method!r}; expected adafilter, bh or by.")

    @property
    def least_in_half(self) -> int:
        """Positives without which a concept is not tested in half of the stimuli."""
        return -(-self.least // 2)

    def bins(self, stimuli: int) -> int:
        """Returns how many strata so many stimuli make; fewer than 2 are none.

        >>> [DetectSettings().bins(stimuli) for stimuli in (15, 220, 5_000)]
        [1, 22, 30]
        """
        return min(self.strata, stimuli // ROWS_OF_A_STRATUM)

    def as_json(self) -> dict[str, Any]:
        """Returns all of them as plain values."""
        fields = dataclasses.asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}
