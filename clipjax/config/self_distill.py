"""Learning from one's own average: the heads that a model has for it, and how a run does it."""

import dataclasses

from clipjax.config.fields import check_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrototypeHeadsConfig:
    """Two heads, of whole images and of patches, that map features to prototypes.

    Attributes:
        prototypes: of each head.
        depth: linear maps before the prototypes, with GELU between them.
        hidden: width between these maps.
        bottleneck: width of the unit vectors that are compared with the prototypes.

    Source: Caron et al. 2021, "DINO", section 3.2 (the shape of the head),
        https://arxiv.org/abs/2104.14294.
    """

    prototypes: int = 32_768
    depth: int = 3
    hidden: int = 2048
    bottleneck: int = 256

    def __post_init__(self):
        check_positive(
            prototypes=self.prototypes,
            depth=self.depth,
            hidden=self.hidden,
            bottleneck=self.bottleneck,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfDistillConfig:
    """How the image tower learns from its own moving average, which sees the whole image.

    The average begins at the parameters of the last step that had both weights zero.

    Attributes:
        crop_weight: of the cross-entropy of what is seen of small crops to what the average sees
            of the image (SigLIP 2: 1); needs `model.self_distill`.
        patch_weight: the same of patches that are hidden, each to itself (SigLIP 2: 0.25).
        crops: of each image.
        crop_size: side of a crop in pixels; learned positions are resampled.
        crop_area: least and most share of the image that a crop shows.
        flip: probability of mirroring a crop left to right.
        masked_share: share of the patches that are hidden.
        mask_block: side in patches of the squares that are hidden together; 1 for single patches.
        student_temperature: divides the logits of the prototypes.
        teacher_temperature: the same for the average; the smaller, the sharper its targets.
        momentum: share of the average that stays in a step.
        center_momentum: the same for the mean logits that are subtracted from the average's.
        prototype_block: most prototypes at a time, of which there are logits.

    Source: Naeem et al. 2023, "SILC", https://arxiv.org/abs/2310.13355 (crops); Maninis et al.
        2024, "TIPS", https://arxiv.org/abs/2410.16512 (patches); Tschannen et al. 2025, "SigLIP 2",
        section 2.3, https://arxiv.org/abs/2502.14786 (both; their weights).
    """

    crop_weight: float = 0.0
    patch_weight: float = 0.0
    crops: int = 8
    crop_size: int = 96
    crop_area: tuple[float, float] = (0.05, 0.4)
    flip: float = 0.5
    masked_share: float = 0.5
    mask_block: int = 1
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    momentum: float = 0.996
    center_momentum: float = 0.9
    prototype_block: int = 4096

    def __post_init__(self):
        check_positive(
            crops=self.crops,
            crop_size=self.crop_size,
            mask_block=self.mask_block,
            prototype_block=self.prototype_block,
        )
        for name in ("crop_weight", "patch_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("student_temperature", "teacher_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("momentum", "center_momentum", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1]")
        if not 0 < self.masked_share < 1:
            raise ValueError(
                f"masked_share={self.masked_share} must be in (0, 1): something is hidden, and "
                "something is seen"
            )
        least, most = self.crop_area
        if not 0 < least <= most <= 1:
            raise ValueError(
                f"crop_area={self.crop_area} must be a least and a most share of the image, with "
                "0 < least <= most <= 1"
            )

    @property
    def idle(self) -> tuple[str, ...]:
        """How the names of the parameters of heads begin that are not trained."""
        crops = () if self.crop_weight else ("self_distill/crops/",)
        patches = ("self_distill/patches/", "self_distill/mask_token")
        return crops if self.patch_weight else crops + patches

    @property
    def is_on(self) -> bool:
        """Whether anything is learnt from the average."""
        return bool(self.crop_weight or self.patch_weight)
