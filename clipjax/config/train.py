"""A whole run."""

import dataclasses
from typing import Literal

from clipjax.config.data import AugmentConfig, DataConfig, TokenizerConfig
from clipjax.config.evals import EvalsConfig
from clipjax.config.fields import check_positive
from clipjax.config.model import DualEncoderConfig
from clipjax.config.objectives import DistillConfig, LossConfig
from clipjax.config.text_towers import TextConfig


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
    """AdamW with warm-up, decay and clipping; CLIP's constants.

    Attributes:
        peak_learning_rate: after the warm-up.
        warmup_steps: steps of linear rise from zero.
        schedule: after the warm-up: half a cosine down to zero at `num_steps`, or constant.
        weight_decay: decoupled; on weights, tables and positions, never on biases, gains, logit
            scale or bias.
        clip_norm: largest global norm of a gradient; None for no clipping.
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

    Source: Zhai et al. 2021, "LiT", https://arxiv.org/abs/2111.07991 (locked towers).
    """

    peak_learning_rate: float = 5e-4
    warmup_steps: int = 2000
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    clip_norm: float | None = 1.0
    ema_decay: float = 0.0
    lock_image: int | None = None
    lock_text: int | None = None
    freeze: tuple[str, ...] = ()
    lora: LoraConfig = LoraConfig()

    def __post_init__(self):
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must be in [0, 1)")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} must not be negative")
        for name in ("lock_image", "lock_text"):
            blocks = getattr(self, name)
            if blocks is not None and blocks < 0:
                raise ValueError(f"{name}={blocks} must not be negative; None trains the tower")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of the mesh; -1 (one axis at most) takes what is left.

    Attributes:
        data: copies of the parameters; the batch is split.
        fsdp: the batch and the parameters are split.
        tensor: heads and hidden units are split; the batch is not.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(
                f"data, fsdp, tensor = {sizes} must be positive; one of them may be -1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved and what is kept.

    Attributes:
        every_steps: steps between saves; a last one is always made.
        keep: newest checkpoints kept.
        keep_every_steps: checkpoints whose step is a multiple of it are kept for ever; 0 for none.
        max_failed_saves: the run stops after so many failed saves in a row.
        allow_other_data: resume although the shards are not those of the checkpoint.
    """

    every_steps: int = 1000
    keep: int = 2
    keep_every_steps: int = 0
    max_failed_saves: int = 5
    allow_other_data: bool = False

    def __post_init__(self):
        if self.every_steps < 1 or self.keep < 1:
            raise ValueError(
                f"every_steps={self.every_steps} and keep={self.keep} must be positive"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """After how many seconds without progress a process is taken for stuck.

    Attributes:
        step_seconds: the least limit for a step; the limit is ten median steps where that is more.
        compile_seconds: limit for compilation and start.
        evaluate_seconds: limit for one evaluation.
        save_seconds: limit for waiting on a checkpoint.
    """

    step_seconds: float = 120.0
    compile_seconds: float = 3600.0
    evaluate_seconds: float = 3600.0
    save_seconds: float = 1800.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where metrics go besides the terminal and WORKDIR/metrics.jsonl.

    Attributes:
        every_steps: steps between lines.
        tensorboard: write event files to WORKDIR/tensorboard.
        wandb_project: project at Weights & Biases (extra `wandb`, key from the environment).
    """

    every_steps: int = 100
    tensorboard: bool = True
    wandb_project: str | None = None

    def __post_init__(self):
        if self.every_steps < 1:
            raise ValueError(f"every_steps={self.every_steps} must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig:
    """What the parameters are before the first step.

    Attributes:
        from_: `--config.init.from`: weights to go on from: "hf:org/name", a folder of another
            codebase or of a run, or a file of weights with `preset`; empty for random ones. The
            tokenizer comes with them. Learned positions of another `image_size` or
            `context_length` are resampled. Read once, when the run begins.
        preset: which model a file of weights is.
        text_positions: how those of another `context_length` are made: interpolated over the whole
            length, or the first ones kept as they are (for texts that were shorter anyway).
        image_from: weights of an image tower by itself, a Vision Transformer of ImageNet of timm's
            or big_vision's, whatever `from` says; a file, a folder or "hf:org/name".
        text_from: the same for the text tower: a BERT of transformers, with its tokenizer.
    """

    from_: str = ""
    preset: str = ""
    text_positions: Literal["interpolate", "truncate"] = "interpolate"
    image_from: str = ""
    text_from: str = ""

    def __post_init__(self):
        if self.preset and not self.from_:
            raise ValueError(f"preset={self.preset!r} names the model of `from`, which is empty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run: everything that decides its result, and nothing of the machine it runs on.

    Attributes:
        num_steps: steps of the whole run; samples seen = num_steps x data.global_batch_size.
        seed: of the initial parameters and of the augmentation.
        micro_batches: parts of a batch that are encoded one after another. The activations of one
            part are in memory at a time, and each part is encoded twice; see `loss.over`.
    """

    num_steps: int = 10_000
    seed: int = 0
    micro_batches: int = 1
    model: DualEncoderConfig = DualEncoderConfig()
    init: InitConfig = InitConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evals: EvalsConfig = EvalsConfig()
    log: LogConfig = LogConfig()
    watchdog: WatchdogConfig = WatchdogConfig()

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} must be positive")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must be in [0, 2**32)")
        if self.loss.kind == "sigmoid" and self.model.init_logit_bias is None:
            raise ValueError("loss.kind='sigmoid' needs model.init_logit_bias (SigLIP: -10)")
        if self.tokenizer.kind == "byte" and self.model.text.vocab_size != 258:
            raise ValueError(
                "tokenizer.kind='byte' has 258 ids: set model.text.vocab_size=258, "
                f"not {self.model.text.vocab_size}"
            )
        if self.data.image_mode == "naflex":
            self._check_naflex()
        if self.data.equal_images and self.loss.equal_captions:
            raise ValueError(
                "data.equal_images and loss.equal_captions: a pair belongs to one group only; "
                "set one of them to False"
            )
        self._check_parts()
        self._check_objectives()
        if self.data.text_buckets:
            self._check_buckets()

    def _check_objectives(self) -> None:
        decoder, loss = self.model.decoder, self.loss
        if not (loss.contrastive_weight or loss.caption_weight or self.distill.teacher):
            raise ValueError(
                "loss.contrastive_weight=0, loss.caption_weight=0 and no distill.teacher: there is "
                "nothing to minimise"
            )
        if self.distill.teacher and (self.data.text_buckets or self.data.image_mode == "naflex"):
            raise ValueError(
                f"distill.teacher={self.distill.teacher!r} reads square images and whole texts: "
                "leave out data.text_buckets and data.image_mode='naflex'"
            )
        dims, whole = loss.matryoshka_dims, self.model.embed_dim
        if dims and max(dims) != whole:
            raise ValueError(
                f"loss.matryoshka_dims={dims} must be at most model.embed_dim={whole} and include "
                "it: the whole embeddings, which are evaluated, would not be trained otherwise"
            )
        if loss.caption_weight and decoder is None:
            raise ValueError(
                f"loss.caption_weight={loss.caption_weight} needs model.decoder, which predicts "
                "the captions: set it (kind='coca' or 'cappa'), or loss.caption_weight=0"
            )
        locked = self.optim.lock_text == 0 or "text/*" in self.optim.freeze
        embeddings_count = loss.contrastive_weight or self.distill.teacher
        if decoder is None or embeddings_count or decoder.kind != "cappa":
            return
        if not locked and not self.optim.lora.rank:
            raise ValueError(
                "loss.contrastive_weight=0 trains nothing of model.text, which "
                "model.decoder.kind='cappa' does not read and weight decay alone would then move: "
                "set optim.lock_text=0"
            )

    def _check_buckets(self) -> None:
        buckets, text = self.data.text_buckets, self.model.text
        if buckets[-1] != text.context_length:
            raise ValueError(
                f"data.text_buckets={buckets} must end with model.text.context_length="
                f"{text.context_length}"
            )
        if not isinstance(text, TextConfig) or not text.causal or text.pool != "eot":
            found = "" if not isinstance(text, TextConfig) else f" and causal={text.causal}"
            raise ValueError(
                "data.text_buckets needs model.text.causal=True, kind='transformer' and "
                f"pool='eot', not {text.kind!r}, {text.pool!r}{found}: there padding is seen, so "
                "its length would change the embeddings"
            )

    def _check_parts(self):
        check_positive(micro_batches=self.micro_batches)
        if self.data.global_batch_size % self.micro_batches:
            raise ValueError(
                f"micro_batches={self.micro_batches} does not divide "
                f"data.global_batch_size={self.data.global_batch_size}"
            )
        moving = not getattr(self.model.image, "frozen_batch_norm", True)
        if self.micro_batches > 1 and moving and self.optim.lock_image != 0:
            raise ValueError(
                f"micro_batches={self.micro_batches}: the batch norms of model.image.kind="
                f"{self.model.image.kind!r} would normalise by the statistics of a part, and "
                "no gradient would be that of the batch. Set model.image.frozen_batch_norm=True, "
                "optim.lock_image=0 or micro_batches=1"
            )
        if self.micro_batches == 1 and self.loss.over == "micro_batch":
            raise ValueError("loss.over='micro_batch' without micro_batches: there is one part")

    def _check_naflex(self) -> None:
        if self.model.image.kind != "vit":
            raise ValueError(
                "data.image_mode='naflex' cuts images into patches: model.image.kind="
                f"{self.model.image.kind!r} cannot read them, only 'vit' can"
            )
        changed = [
            f"augment.{field.name}"
            for field in dataclasses.fields(self.augment)
            if getattr(self.augment, field.name) != field.default
        ]
        if changed:
            raise ValueError(
                f"data.image_mode='naflex' has no whole images to change: leave out "
                f"{', '.join(changed)}"
            )
