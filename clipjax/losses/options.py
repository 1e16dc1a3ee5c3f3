"""What a contrastive loss makes of a batch, beside its kind."""

import dataclasses
from typing import Literal

import jax
from jaxtyping import Array, Float, Int32

Embeds = Float[Array, "batch embed"]
Scalar = Float[Array, ""]
Groups = Int32[Array, " batch"]
HardNegatives = Float[Array, "batch negatives embed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What a contrastive loss makes of a batch, beside its kind.

    Attributes:
        same_group: rows of one group are positives of each other with equal weights (UniCL, Yang et
            al. 2022, https://arxiv.org/abs/2204.03610), or neither positives nor negatives: false
            negatives that are masked.
        label_smoothing: share of a target that is spread over all candidates (softmax only; ALIGN,
            Jia et al. 2021, https://arxiv.org/abs/2102.05918, has 0.1).
        z_loss: weight of the mean square of the log-normalisers, which keeps logits from drifting
            (softmax only; PaLM, Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311).
    """

    same_group: Literal["positives", "ignored"] = "positives"
    label_smoothing: float = 0.0
    z_loss: float = 0.0


PLAIN = LossOptions()


def flat(hard_negatives: HardNegatives) -> Float[Array, "texts embed"]:
    """Returns the texts of all images below each other."""
    return hard_negatives.reshape(-1, hard_negatives.shape[-1])


def relations(
    options: LossOptions,
    groups: jax.Array,
    column_groups: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns which texts are positives of which images and which are candidates at all.

    Args:
        options: of the loss.
        groups: of the images.
        column_groups: of the texts.
        rows: number of each image in the batch.
        columns: number of each text in the batch; that of a hard negative is of no image.

    Returns:
        positive and counted, bool [images, texts].
    """
    own = rows[:, None] == columns[None, :]
    # A hard negative is in no group.
    same = (groups[:, None] == column_groups[None, :]) & (columns >= 0)[None, :]
    if options.same_group == "positives":
        return same | own, own | True
    return own, own | ~same
