"""The optimizer, its schedule, and which parameters it moves how fast."""

import dataclasses
import math
from typing import Literal

from clipjax.config.fields import check_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank updates of chosen matrices, of a model that is frozen otherwise.

    Attributes:
        rank: of each update; 0 for none of this.
        alpha: the update counts alpha / rank times.
        matrices: patterns of matrices: a kernel by its name without `/kernel`, layers unrolled;
            fused kernels by their parts, such as `image/blocks/stack/0/attn/q` and `.../attn/v`.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; queries and values: section 4.2.
    """

    rank: int = 0
    alpha: float = 16.0
    matrices: tuple[str, ...] = ("*/attn/q", "*/attn/v")

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"rank={self.rank} must not be negative")
        if self.rank and not self.matrices:
            raise ValueError(f"rank={self.rank} with matrices=(): name at least one pattern")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """An optimizer with warm-up, decay and clipping; AdamW with CLIP's constants by default.

    Attributes:
        kind: adamw; lion; lamb, whose trust ratios are those of layers, also of stacked ones, and
            of decaying parameters only; adafactor, the variant of big_vision: factored second
            moments, no scaling by the parameter, momentum behind the scaling; muon, for matrices
            behind the towers' entrances, with AdamW for all else; sgd.
        peak_learning_rate: after the warm-up. The updates of muon are scaled to the size of
            adamw's, so that the same rate serves both; lion wants a third to a tenth of it.
        warmup_steps: steps of linear rise from zero.
        schedule: after the warm-up: cosine, half a cosine down at `num_steps`; linear, a line down;
            constant; rsqrt, peak x sqrt(timescale / (steps after the warm-up + timescale)); wsd
            (warm-up, stable, decay), constant and then a cool-down.
        final_share: where cosine, linear and a cool-down end, as a share of where they begin.
        cooldown_steps: last steps, in which rsqrt (0 for none) and wsd fall along a line.
        timescale_steps: of rsqrt.
        weight_decay: decoupled, multiplied by the learning rate; on weights, tables and positions,
            never on biases, gains, logit scale or bias. In lamb it is part of the update whose size
            the trust ratio sets.
        no_decay: patterns of names of parameters that do not decay either, such as `*/positions`;
            written like `freeze`, with `!` before those that do after all.
        beta1: memory of the first moment: the momentum of sgd, muon (0.95 there by its authors) and
            adafactor; 0 keeps none in sgd and adafactor.
        beta2: memory of the second moment of adamw, lamb and muon's AdamW, of the first one of
            lion, and what adafactor's, 1 - step^-0.8, rises to.
        eps: added to the root of the second moment of adamw, lamb and muon's AdamW.
        nesterov: sgd looks one step ahead (muon always does).
        moments_dtype: of the first moment or momentum, of any kind. Second moments stay float32:
            their steps, 1 - beta2 of themselves, are smaller than what bfloat16 can resolve.
        clip_norm: largest global norm of a gradient; None for no clipping.
        rates: `PATTERN=FACTOR` multiplies the whole update of the parameters that match, decay
            included, such as `image/*=0.1`; the last pattern that matches decides.
        layer_decay_image: d multiplies the updates of block i of n (1 is the first) by d^(n+1-i),
            of what stands before the blocks by d^(n+1), and of what is behind them by 1. The rates
            come on top.
        layer_decay_text: the same of the text tower.
        ema_decay: decay of the moving average of the parameters that is evaluated and exported; 0
            for none. It is warmed up: min(decay, (1 + step) / (10 + step)).
        lock_image: None trains the image tower. k trains only its last k blocks and what stands
            behind them (last norm, pooling, projection); 0 trains nothing of it, as in LiT. Frozen
            batch norms keep their statistics and normalise by them.
        lock_text: the same of the text tower.
        freeze: patterns of names of parameters that are not trained, layers unrolled, such as
            `image/blocks/stack/0/*`; behind `!` one that is trained after all. The last pattern
            that matches decides, and any pattern overrules the locks and LoRA.
        lora: low-rank updates instead of training the parameters themselves.

    Source: Zhai et al. 2021, "LiT", https://arxiv.org/abs/2111.07991 (locked towers); Bao et al.
        2021, "BEiT", https://arxiv.org/abs/2106.08254 (layer decay, after Clark et al. 2020,
        "ELECTRA", https://arxiv.org/abs/2003.10555).
    """

    kind: Literal["adamw", "lion", "lamb", "adafactor", "muon", "sgd"] = "adamw"
    peak_learning_rate: float = 5e-4
    warmup_steps: int = 2000
    schedule: Literal["cosine", "constant", "linear", "rsqrt", "wsd"] = "cosine"
    final_share: float = 0.0
    cooldown_steps: int = 0
    timescale_steps: int = 10_000
    weight_decay: float = 0.2
    no_decay: tuple[str, ...] = ()
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    nesterov: bool = False
    moments_dtype: Literal["float32", "bfloat16"] = "float32"
    clip_norm: float | None = 1.0
    rates: tuple[str, ...] = ()
    layer_decay_image: float = 1.0
    layer_decay_text: float = 1.0
    ema_decay: float = 0.0
    lock_image: int | None = None
    lock_text: int | None = None
    freeze: tuple[str, ...] = ()
    lora: LoraConfig = LoraConfig()

    def __post_init__(self):
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} must not be negative")
        for name in ("lock_image", "lock_text"):
            blocks = getattr(self, name)
            if blocks is not None and blocks < 0:
                raise ValueError(f"{name}={blocks} must not be negative; None trains the tower")
        for name in ("layer_decay_image", "layer_decay_text"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in (0, 1]; 1 for none")
        for rate in self.rates:
            split_rate(rate)
        self._check_schedule()

    def _check_schedule(self) -> None:
        check_positive(timescale_steps=self.timescale_steps)
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share={self.final_share} must be in [0, 1]")
        if self.cooldown_steps < 0:
            raise ValueError(f"cooldown_steps={self.cooldown_steps} must not be negative")
        if self.schedule == "wsd" and not self.cooldown_steps:
            raise ValueError("schedule='wsd' needs cooldown_steps, the steps of its decay")
        if self.cooldown_steps and self.schedule not in ("wsd", "rsqrt"):
            raise ValueError(
                f"cooldown_steps={self.cooldown_steps} is for schedule='wsd' and 'rsqrt', not "
                f"{self.schedule!r}; 'wsd' is a constant rate with a cool-down"
            )
        falls = self.schedule in ("cosine", "linear") or self.cooldown_steps
        if self.final_share and not falls:
            raise ValueError(
                f"final_share={self.final_share} with schedule={self.schedule!r}: nothing falls to "
                "it; set cooldown_steps with 'wsd' or 'rsqrt', or leave it out"
            )


def split_rate(rate: str) -> tuple[str, float]:
    """Returns the pattern and the factor of an entry of `rates`.

    Raises:
        ValueError: if it is not PATTERN=FACTOR with a positive number.

    >>> split_rate("image/*=0.1")
    ('image/*', 0.1)
    """
    pattern, _, number = rate.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not pattern or not 0 < factor < math.inf:
        raise ValueError(
            f"rates: {rate!r} is not PATTERN=FACTOR with a positive factor, such as 'image/*=0.1'; "
            "`freeze` is for what is not trained at all"
        )
    return pattern, factor
