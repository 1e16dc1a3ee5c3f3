"""Emoji and their names with a small ConvNet: under three minutes on two CPU cores.

Data: `clipjax data emoji --out data/emoji` (3,079 training pairs of 64 x 64 pixels). Held out are
concepts, skin-tone combinations and a drawing style, so that the scores show what generalises.
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
    return to_config_dict(
        TrainConfig(
            num_steps=300,
            model=DualEncoderConfig(
                image=ConvNetConfig(
                    widths=(32, 64, 128, 256, 256),
                    depths=(0, 1, 1, 0, 0),
                    activation="quick_gelu",
                ),
                text=TextConfig(
                    vocab_size=2048,
                    context_length=16,
                    width=96,
                    depth=1,
                    num_heads=4,
                    mlp_dim=384,
                    activation="quick_gelu",
                ),
                embed_dim=96,
            ),
            data=DataConfig(
                root="data/emoji",
                shards="train/*.tar",
                caption="json.captions",
                global_batch_size=256,
                crop_scale=(0.7, 1.0),
            ),
            augment=AugmentConfig(flip=0.5, colour=0.2, noise=0.05),
            loss=LossConfig(equal_captions=True),
            optim=OptimConfig(
                peak_learning_rate=2.5e-3, warmup_steps=30, weight_decay=0.2, ema_decay=0.98
            ),
            checkpoint=CheckpointConfig(every_steps=100),
            evals=EvalsConfig(
                tasks={
                    "combination": TaskConfig(
                        kind="retrieval", shards="combination/*.tar", candidates="names.txt"
                    ),
                    "concept": TaskConfig(kind="retrieval", shards="concept/*.tar"),
                    "style": TaskConfig(kind="retrieval", shards="style/*.tar"),
                    "groups": TaskConfig(
                        kind="zeroshot",
                        shards="concept/*.tar",
                        classnames="groups/classnames.txt",
                        templates="groups/zeroshot_classification_templates.txt",
                    ),
                }
            ),
            log=LogConfig(every_steps=10),
        )
    )
