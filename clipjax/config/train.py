"""A whole run."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

from clipjax.config.data import AugmentConfig, DataConfig, TokenizerConfig
from clipjax.config.evals import EvalsConfig
from clipjax.config.fields import check_positive
from clipjax.config.guard import GuardConfig
from clipjax.config.mesh import MeshConfig
from clipjax.config.model import DualEncoderConfig
from clipjax.config.neurons import NeuronsConfig
from clipjax.config.objectives import DistillConfig, LossConfig
from clipjax.config.optim import OptimConfig
from clipjax.config.run_checks import (
    check_best_metric,
    check_buckets,
    check_naflex,
    check_objectives,
)
from clipjax.config.self_distill import SelfDistillConfig
from clipjax.config.stages import StageConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved and what is kept.

    Attributes:
        every_steps: steps between saves; a last one is always made.
        keep: newest checkpoints kept.
        keep_every_steps: checkpoints whose step is a multiple of it are kept for ever; 0 for none.
        best_metric: e.g. "eval/imagenet1k/acc1": the checkpoints with its highest values are kept
            too; empty for none.
        keep_best: how many of them.
        max_failed_saves: the run stops after so many failed saves in a row.
        allow_other_data: resume although the shards are not those of the checkpoint.
    """

    every_steps: int = 1000
    keep: int = 2
    keep_every_steps: int = 0
    best_metric: str = ""
    keep_best: int = 1
    max_failed_saves: int = 5
    allow_other_data: bool = False

    def __post_init__(self):
        if self.every_steps < 1 or self.keep < 1 or self.keep_best < 1:
            raise ValueError(
                f"every_steps={self.every_steps}, keep={self.keep} and keep_best={self.keep_best} "
                "must be positive"
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
        stages: parts of the run by name, in the order of their first steps; what is before the
            first of them is as the rest of the config says.
    """

    num_steps: int = 10_000
    seed: int = 0
    micro_batches: int = 1
    stages: Mapping[str, StageConfig] = dataclasses.field(default_factory=dict)
    model: DualEncoderConfig = DualEncoderConfig()
    init: InitConfig = InitConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()
    self_distill: SelfDistillConfig = SelfDistillConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evals: EvalsConfig = EvalsConfig()
    neurons: NeuronsConfig = NeuronsConfig()
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
            check_naflex(self)
        if self.data.equal_images and self.loss.equal_captions:
            raise ValueError(
                "data.equal_images and loss.equal_captions: a pair belongs to one group only; "
                "set one of them to False"
            )
        self._check_parts()
        self._check_schedule()
        check_objectives(self)
        check_best_metric(self)
        if self.data.text_buckets:
            check_buckets(self)
        if self.stages:
            self._check_stages()

    @functools.cached_property
    def parts(self) -> tuple["Stage", ...]:
        """The run cut where something changes: one part where there are no stages."""
        stages = sorted(self.stages.items(), key=lambda item: item[1].first_step)
        if not stages or stages[0][1].first_step:
            stages = [("", StageConfig()), *stages]
        firsts = [stage.first_step for _, stage in stages]
        return tuple(
            Stage(name=name, first_step=first, stop_step=stop, config=self._staged(name, stage))
            for (name, stage), first, stop in zip(
                stages, firsts, [*firsts[1:], self.num_steps], strict=True
            )
        )

    def samples_seen(self, step: int) -> int:
        """Returns the pairs of so many steps."""
        return sum(
            (min(step, part.stop_step) - part.first_step) * part.config.data.global_batch_size
            for part in self.parts
            if step > part.first_step
        )

    def _staged(self, name: str, stage: StageConfig) -> "TrainConfig":
        """Returns the config of the steps of a stage, by itself without stages."""

        def changed(section: Any, **fields: Any) -> Any:
            given = {field: value for field, value in fields.items() if value is not None}
            missing = given.keys() - {field.name for field in dataclasses.fields(section)}
            if missing:
                raise ValueError(
                    f"{', '.join(sorted(missing))}: a tower of kind={section.kind!r} has none"
                )
            return dataclasses.replace(section, **given) if given else section

        length = stage.context_length
        locks = {"lock_image": stage.lock_image, "lock_text": stage.lock_text}
        optim = dataclasses.replace(
            self.optim,
            **{
                field: None if blocks == -1 else blocks
                for field, blocks in locks.items()
                if blocks is not None
            },
        )
        try:
            model = dataclasses.replace(
                self.model,
                image=changed(
                    self.model.image,
                    image_size=stage.image_size,
                    patch_dropout=stage.patch_dropout,
                ),
                text=changed(self.model.text, context_length=length),
                **({} if length is None else self.model.of_length(length)),
            )
            return dataclasses.replace(
                self,
                stages={},
                model=model,
                data=changed(self.data, global_batch_size=stage.global_batch_size),
                optim=optim,
                self_distill=changed(
                    self.self_distill,
                    crop_weight=stage.crop_weight,
                    patch_weight=stage.patch_weight,
                ),
            )
        except ValueError as error:
            raise ValueError(f"stages.{name}: {error}") from error

    def _check_stages(self) -> None:
        firsts: dict[int, str] = {}
        for name, stage in self.stages.items():
            if stage.first_step >= self.num_steps:
                raise ValueError(
                    f"stages.{name}.first_step={stage.first_step} is not below num_steps="
                    f"{self.num_steps}: the run would end before it"
                )
            if stage.first_step in firsts:
                raise ValueError(
                    f"stages.{name} and stages.{firsts[stage.first_step]} both begin at "
                    f"first_step={stage.first_step}"
                )
            firsts[stage.first_step] = name
            self._check_warmup(name, stage)
        for part in self.parts:
            if part.config.model.image.image_size > self.model.image.image_size:
                raise ValueError(
                    f"stages.{part.name}.image_size={part.config.model.image.image_size} is more "
                    f"than model.image.image_size={self.model.image.image_size}: give the model "
                    "the largest, and smaller ones to the other stages"
                )
            if part.config.model.text.context_length > self.model.text.context_length:
                raise ValueError(
                    f"stages.{part.name}.context_length={part.config.model.text.context_length} is "
                    f"more than model.text.context_length={self.model.text.context_length}: give "
                    "the model the longest, and shorter ones to the other stages"
                )
        sizes = {part.config.data.global_batch_size for part in self.parts}
        lengths = {part.config.model.text.context_length for part in self.parts}
        pixels = {part.config.model.image.image_size for part in self.parts}
        if self.distill.teacher and max(len(pixels), len(lengths)) > 1:
            raise ValueError(
                "distill.teacher with stages of another image_size or context_length: the teacher "
                "reads those of the run only. Leave one of the two out"
            )
        if self.data.text_buckets and max(len(sizes), len(lengths)) > 1:
            raise ValueError(
                "data.text_buckets with stages of another global_batch_size or context_length: "
                "batches are sorted by length across them. Leave one of the two out"
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

    def _check_schedule(self) -> None:
        warmup, cooldown = self.optim.warmup_steps, self.optim.cooldown_steps
        if cooldown and warmup + cooldown > self.num_steps:
            raise ValueError(
                f"optim.warmup_steps={warmup} and optim.cooldown_steps={cooldown} do not fit into "
                f"num_steps={self.num_steps}: shorten one of them"
            )

    def _check_warmup(self, name: str, stage: StageConfig) -> None:
        if stage.peak_learning_rate is None:
            return
        later = [
            other.first_step
            for other in self.stages.values()
            if other.peak_learning_rate is not None and other.first_step > stage.first_step
        ]
        steps = min(later, default=self.num_steps) - stage.first_step
        warmup = self.optim.warmup_steps if stage.warmup_steps is None else stage.warmup_steps
        needed = warmup + self.optim.cooldown_steps
        if needed > steps:
            raise ValueError(
                f"stages.{name}: a warm-up of {warmup} steps and optim.cooldown_steps="
                f"{self.optim.cooldown_steps} do not fit into the {steps} steps of its learning "
                f"rate: set stages.{name}.warmup_steps"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Some steps of a run, and the config that they would have if there were no others.

    Attributes:
        name: of the stage; empty for what comes before the first, and where there are none.
        first_step: counts from 0.
        stop_step: the first step behind it.
        config: without stages.
    """

    name: str
    first_step: int
    stop_step: int
    config: TrainConfig
