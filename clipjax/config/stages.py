"""Parts of a run that differ from each other in size: resolution, lengths, batch, locks."""

import dataclasses

from clipjax.config.fields import check_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What the steps from one on have otherwise than the config of the run says; None for nothing.

    Each stage is compiled before the first step, and the state goes on from stage to stage.
    Positions are learned at the size of the run; where a stage has smaller images, its positions
    are those of the run resampled, and gradients go through that; of shorter texts they are the
    first ones.

    Attributes:
        first_step: counts from 0; a stage lasts until the next one begins.
        image_size: side of the square input in pixels.
        context_length: tokens of a text.
        patch_dropout: share of the patches that are left out in training.
        global_batch_size: pairs of a step.
        lock_image: see `optim.lock_image`; -1 trains all of the tower. Parameters that are locked
            in one stage only have moments all along, which wait.
        lock_text: the same of the text tower.
        crop_weight: see `self_distill.crop_weight`. Heads that a stage does not train wait.
        patch_weight: see `self_distill.patch_weight`.
        peak_learning_rate: the learning rate begins anew with the stage, at its warm-up, and ends
            where the next stage with this field begins.
        warmup_steps: of that; those of the run by default.

    Source: Li et al. 2023, "CLIPA-v2", https://arxiv.org/abs/2306.15658 (small images and short
        texts first); Li et al. 2022, "FLIP", https://arxiv.org/abs/2212.00794 (unmasked tuning).
    """

    first_step: int = 0
    image_size: int | None = None
    context_length: int | None = None
    patch_dropout: float | None = None
    global_batch_size: int | None = None
    lock_image: int | None = None
    lock_text: int | None = None
    crop_weight: float | None = None
    patch_weight: float | None = None
    peak_learning_rate: float | None = None
    warmup_steps: int | None = None

    def __post_init__(self):
        if self.first_step < 0:
            raise ValueError(f"first_step={self.first_step} must not be negative")
        for name in ("image_size", "context_length", "global_batch_size"):
            if (value := getattr(self, name)) is not None:
                check_positive(**{name: value})
        for name in ("lock_image", "lock_text"):
            if (value := getattr(self, name)) is not None and value < -1:
                raise ValueError(f"{name}={value} must be at least -1, which trains the tower")
        if self.warmup_steps is not None and self.peak_learning_rate is None:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} without peak_learning_rate: only a learning "
                "rate that begins anew is warmed up"
            )
