"""Emoji, their edges and written words with a small ConvNet: a model to look for neurons in.

Data: `clipjax data emoji-world --out data/emoji-world`, from pictures that come with the package.
The layer to look at is image/stages/4/blocks/0/act, 256 units behind a ReLU that see the whole
picture. Controls train as many steps: --config.data.shards='photo/*.tar edges/*.tar' without
words, --config.data.shuffled_captions=True with nothing to learn, and other --config.seed.
"""

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
    TrainConfig,
    to_config_dict,
)


def get_config() -> ml_collections.ConfigDict:
    names = {"classnames": "classnames.txt", "templates": "templates.txt"}
    return to_config_dict(
        TrainConfig(
            num_steps=1200,
            model=DualEncoderConfig(
                image=ConvNetConfig(
                    widths=(16, 32, 64, 128, 256), depths=(0, 1, 1, 0, 1), activation="relu"
                ),
                text=TextConfig(
                    vocab_size=600,
                    context_length=16,
                    width=64,
                    depth=1,
                    num_heads=4,
                    mlp_dim=128,
                ),
                embed_dim=96,
            ),
            data=DataConfig(
                root="data/emoji-world",
                shards="photo/*.tar edges/*.tar word/*.tar",
                caption="json.captions",
                global_batch_size=128,
            ),
            augment=AugmentConfig(shift=1, colour=0.2),
            loss=LossConfig(equal_captions=True),
            optim=OptimConfig(
                peak_learning_rate=2.5e-3, warmup_steps=50, weight_decay=0.1, ema_decay=0.98
            ),
            checkpoint=CheckpointConfig(every_steps=600),
            evals=EvalsConfig(
                tasks={
                    "held_out": TaskConfig(kind="zeroshot", shards="held_out/*.tar", **names),
                    "reading": TaskConfig(kind="zeroshot", shards="reading/*.tar", **names),
                }
            ),
            log=LogConfig(every_steps=50),
        )
    )
