"""Two handwritten digits and the number's name: under three minutes on two CPU cores.

Data: `clipjax data digits --out data/digits` (8,000 composed training pairs of 80 numbers). The
other 20 numbers are never seen in training: naming them is zero-shot, 100-way, chance 0.01.
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
    OptimConfig,
    TaskConfig,
    TextConfig,
    TokenizerConfig,
    TrainConfig,
    to_config_dict,
)


def get_config() -> ml_collections.ConfigDict:
    names = "numbers/classnames.txt"
    templates = "numbers/zeroshot_classification_templates.txt"
    return to_config_dict(
        TrainConfig(
            num_steps=300,
            model=DualEncoderConfig(
                image=ConvNetConfig(widths=(16, 32, 64), depths=(1, 1, 1), activation="quick_gelu"),
                text=TextConfig(
                    vocab_size=320,
                    context_length=12,
                    width=64,
                    depth=1,
                    num_heads=4,
                    mlp_dim=256,
                    activation="quick_gelu",
                ),
                embed_dim=64,
            ),
            tokenizer=TokenizerConfig(kind="bpe"),
            data=DataConfig(
                root="data/digits",
                shards="train/*.tar",
                global_batch_size=256,
                crop_scale=(0.8, 1.0),
            ),
            augment=AugmentConfig(shift=2, colour=0.2),
            optim=OptimConfig(
                peak_learning_rate=2e-3, warmup_steps=30, weight_decay=0.1, ema_decay=0.98
            ),
            checkpoint=CheckpointConfig(every_steps=100),
            evals=EvalsConfig(
                tasks={
                    "unseen": TaskConfig(
                        kind="zeroshot",
                        shards="unseen/*.tar",
                        classnames=names,
                        templates=templates,
                    ),
                    "seen": TaskConfig(
                        kind="zeroshot", shards="seen/*.tar", classnames=names, templates=templates
                    ),
                    "retrieval": TaskConfig(
                        kind="retrieval", shards="unseen/*.tar", candidates="names.txt"
                    ),
                }
            ),
            log=LogConfig(every_steps=10),
        )
    )
