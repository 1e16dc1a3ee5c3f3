"""Emoji data."""

import ml_collections

from clipjax.config import (
    AugmentConfig,
    CheckpointConfig,
    ConvNetConfig,
    DataConfig,
    DualEncoderConfig,
    EvalsConfig,
    LogConfig,
    LossConfig,
    OptimConfig,
    TaskConfig,
    TextConfig,
    TokenizerConfig,
    TrainConfig,
    to_config_dict,
)


def get_config() -> ml_collections.ConfigDict:
    names = {"classnames": "classnames.txt", "templates": "templates.txt"}
    return to_config_dict(
        TrainConfig(
            num_steps=900,
            model=DualEncoderConfig(
                image=ConvNetConfig(
                    widths=(24, 48, 96, 256),
                    depths=(0, 1, 1, 1),
                    activation="relu",
                ),
                text=TextConfig(
                    vocab_size=600,
                    context_length=24,
                    width=64,
                    depth=1,
                    num_heads=4,
                    mlp_dim=256,
                ),
                embed_dim=96,
            ),
            tokenizer=TokenizerConfig(kind="bpe"),
            data=DataConfig(
                root="data/emoji-world",
                shards="photo/*.tar edges/*.tar word/*.tar",
                caption="json.captions",
                global_batch_size=128,
                crop_scale=(0.7, 1.0),
            ),
            augment=AugmentConfig(flip=0.0, shift=2, colour=0.2),
            loss=LossConfig(equal_captions=True),
            optim=OptimConfig(
                peak_learning_rate=2e-3, warmup_steps=50, weight_decay=0.2, ema_decay=0.98
            ),
            checkpoint=CheckpointConfig(every_steps=900),
            evals=EvalsConfig(
                tasks={
                    "held_out": TaskConfig(kind="zeroshot", shards="held_out/*.tar", **names),
                    "reading": TaskConfig(kind="zeroshot", shards="reading/*.tar", **names),
                }
            ),
            log=LogConfig(every_steps=50),
        )
    )
