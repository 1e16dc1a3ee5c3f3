"""What a sparse autoencoder is to be and how it is trained."""

import dataclasses
import math
from typing import Literal, get_args

Objective = Literal["topk", "batchtopk", "matryoshka", "group"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)

# Of k: how many latents the other reconstructions of "matryoshka" have.
_LEVELS = (0.25, 0.5, 1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaeOptions:
    """An autoencoder and its training; everything that decides the result but the features.

    Attributes:
        objective: which latents of a row are kept.
            "topk": the k largest of each row (Gao et al. 2024, https://arxiv.org/abs/2406.04093).
            "batchtopk": the k times rows largest of the batch, so that rows share them as they need
            (Bussmann et al. 2024, https://arxiv.org/abs/2412.06410).
            "matryoshka": the k largest, and reconstructions of fewer and more of them count as well
            (Zaigrajew et al. 2025, MSAE, https://arxiv.org/abs/2502.20578).
            "group": the k largest of each pair, by the length of (image's, text's), so that both
            use the same latents (group-sparse, 2026, https://arxiv.org/abs/2601.20028).
        latents: atoms of the dictionary.
        k: latents of a row that are kept, on average with "batchtopk".
        centre: whether each modality's mean is taken off, in place of the mean of both.
        mask: share of the pairs of which the encoder sees one modality only, drawn at random; what
            it sees has to reconstruct both.
        steps: of training.
        batch_size: pairs of a step.
        learning_rate: of Adam at its peak.
        warmup: share of the steps in which it rises; in the last fifth it falls to 0.
        aux: weight of the loss of dead latents.
        dead_steps: a latent that no row of so many steps kept is dead.
        seed: of the first weights, of the order of pairs and of what is masked.

    Raises:
        ValueError: for values that cannot be.
    """

    objective: Objective = "group"
    latents: int = 512
    k: int = 12
    centre: bool = True
    mask: float = 0.0
    steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup: float = 0.05
    aux: float = 1 / 32
    dead_steps: int = 100
    seed: int = 0

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective!r}: expected one of {OBJECTIVES}")
        for name in ("latents", "k", "steps", "batch_size", "dead_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
        if self.k > self.latents:
            raise ValueError(f"k={self.k}: expected at most latents={self.latents}")
        for name in ("mask", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a share, 0 to 1")
        for name, least in (("learning_rate", 0), ("aux", -1)):
            if not least < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: expected a positive number")
        if self.aux < 0:
            raise ValueError(f"aux={self.aux}: expected 0 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: expected 0 or more")

    @property
    def levels(self) -> tuple[int, ...]:
        """How many latents the reconstructions that count have, ascending; k is among them.

        >>> SaeOptions(objective="matryoshka", k=12).levels, SaeOptions(k=12).levels
        ((3, 6, 12, 24), (12,))
        """
        if self.objective != "matryoshka":
            return (self.k,)
        return tuple(sorted({min(math.ceil(f * self.k), self.latents) for f in _LEVELS}))
