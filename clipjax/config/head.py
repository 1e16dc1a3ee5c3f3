"""What stands between a tower's projection and the unit vectors of the shared space."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How both towers enter the shared space; one head for both, so that its axes mean one thing.

    Attributes:
        kind: linear: the projection as it is (CLIP). sparse_relu: what is negative becomes 0, so
            that an embedding is a sum of few axes, and these are units that can be looked at; no
            other codebase can hold it. The lower `loss.max_logit_scale`, the fewer axes: where
            cosines are not negative, a small scale tells apart what shares none.

    Source: "Sparse CLIP" 2026, https://arxiv.org/abs/2601.20075; Wang et al. 2024, "Non-negative
        Contrastive Learning", https://arxiv.org/abs/2403.12459.
    """

    kind: Literal["linear", "sparse_relu"] = "linear"

    @property
    def is_non_negative(self) -> bool:
        """Whether no coordinate of an embedding is negative."""
        return self.kind == "sparse_relu"
