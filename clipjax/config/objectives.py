"""What a run minimises."""

import dataclasses
from typing import Literal

from clipjax.config.fields import check_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What a run minimises: the contrastive loss, and what else `model` has the parts for.

    Attributes:
        contrastive_weight: of the contrastive loss (CoCa: 1; CapPa has none: 0).
        caption_weight: of the cross-entropy of the captions that `model.decoder` predicts, in nats
            a token (CoCa: 2; CapPa and LocCa: 1).
        matching_weight: of the mean cross-entropy of `model.matching`, which tells right pairs from
            hard wrong ones (ALBEF, BLIP: 1).
        caption_block: most ids of the vocabulary at a time, of which there are logits.
        kind: softmax (CLIP) or sigmoid (SigLIP).
        form: how each device comes to see all texts. ring: they travel from device to device; a
            device never holds more than its own, nor more logits than [its images, `block`].
            chunked: they are gathered once, logits come in blocks. plain: one matrix of logits, as
            XLA splits it. auto: plain on one device, else ring. The value is the same.
        block: most columns of logits at a time.
        equal_captions: pairs of one batch with the same caption form a group. Otherwise, with
            `data.equal_images`, those of the same image do.
        same_group: pairs of one group are positives of each other, or neither positives nor
            negatives. As positives equal captions change nothing with softmax: they have equal
            embeddings, and the loss is the same either way.
        label_smoothing: share of a target that is spread over all candidates (softmax; ALIGN: 0.1).
        z_loss: weight of the mean square of the log-normalisers (softmax).
        over: with `micro_batches`: the loss of the whole batch, the same as without (gradient
            caching), or the mean of the losses of its parts, each with fewer negatives.
        matryoshka_dims: sizes of prefixes of the embeddings, each brought to unit length, over
            whose contrastive losses the mean is taken; the largest is `model.embed_dim`. Empty for
            the whole embeddings alone.
        max_logit_scale: the scale is clamped to it after each step.
    """

    contrastive_weight: float = 1.0
    caption_weight: float = 0.0
    matching_weight: float = 0.0
    caption_block: int = 2048
    kind: Literal["softmax", "sigmoid"] = "softmax"
    form: Literal["auto", "ring", "chunked", "plain"] = "auto"
    block: int = 512
    equal_captions: bool = False
    same_group: Literal["positives", "ignored"] = "positives"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    over: Literal["batch", "micro_batch"] = "batch"
    matryoshka_dims: tuple[int, ...] = ()
    max_logit_scale: float = 100.0

    def __post_init__(self):
        check_positive(block=self.block, caption_block=self.caption_block)
        if self.matryoshka_dims:
            check_positive(matryoshka_dims=self.matryoshka_dims)
        if len(set(self.matryoshka_dims)) < len(self.matryoshka_dims):
            raise ValueError(f"matryoshka_dims={self.matryoshka_dims} must differ from each other")
        weights = {"contrastive_weight": self.contrastive_weight}
        weights["caption_weight"] = self.caption_weight
        weights["matching_weight"] = self.matching_weight
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name}={weight} must not be negative")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be in [0, 1)")
        if self.z_loss < 0:
            raise ValueError(f"z_loss={self.z_loss} must not be negative")
        for name in ("label_smoothing", "z_loss"):
            if self.kind == "sigmoid" and getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)} is for kind='softmax' only")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """A frozen model that the run learns from, beside its own losses.

    Attributes:
        teacher: where it is, as `init.from`: "hf:org/name", a folder of another codebase or of a
            run, or a file of weights with `preset`; empty for none. It reads the images and tokens
            of the student: of the same size, by the same tokenizer.
        preset: which model a file of weights is.
        logit_weight: of the cross-entropy of the student's similarities to the teacher's.
        feature_weight: of the mean square of the differences of the embeddings of both.
    """

    teacher: str = ""
    preset: str = ""
    logit_weight: float = 1.0
    feature_weight: float = 0.0

    def __post_init__(self):
        weights = {"logit_weight": self.logit_weight, "feature_weight": self.feature_weight}
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name}={weight} must not be negative")
        if self.teacher and not any(weights.values()):
            raise ValueError(
                f"teacher={self.teacher!r} with logit_weight=0 and feature_weight=0: nothing is "
                "learnt from it. Set one of them, or teacher=''"
            )
        if (self.preset or self.feature_weight) and not self.teacher:
            name = "preset" if self.preset else "feature_weight"
            raise ValueError(
                f"{name}={getattr(self, name)!r} is about the model of `teacher`, which is empty"
            )
