"""Emoji, their edges and written words with a small ConvNet: a model to look for neurons in.

Data: `clipjax data emoji-world --out data/emoji-world`, from pictures that come with the package.
The layer to look at is image/hidden/mlp_act, 256 units behind a ReLU that see the whole picture,
and all that the embedding is computed from. Captions are the 24 words alone; with
`configs/emoji_neurons.py:captions` names and keywords of the emoji too. Controls train as many
steps: --config.data.shards='photo/*.tar edges/*.tar' without words,
--config.data.shuffled_captions=True with nothing to learn, and other --config.seed.
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
    UsageError,
    to_config_dict,
)


def get_config(captions: str = "words") -> ml_collections.ConfigDict:
    if captions not in ("words", "captions"):
        raise UsageError(f"configs/emoji_neurons.py:{captions}: wanted words or captions.")
    names = {"classnames": "classnames.txt", "templates": "templates.txt"}
    return to_config_dict(
        TrainConfig(
            num_steps=4500,
            model=DualEncoderConfig(
                image=ConvNetConfig(
                    widths=(16, 32, 64, 128, 256),
                    depths=(0, 1, 1, 0, 0),
                    hidden=256,
                    activation="relu",
                ),
                text=TextConfig(
                    vocab_size=320 if captions == "words" else 1000,
                    context_length=8 if captions == "words" else 24,
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
                caption="json.concepts" if captions == "words" else "json.captions",
                global_batch_size=64,
            ),
            augment=AugmentConfig(shift=2, grey_probability=0.2, colour=0.2),
            loss=LossConfig(equal_captions=True),
            optim=OptimConfig(
                peak_learning_rate=2.5e-3, warmup_steps=50, weight_decay=0.2, ema_decay=0.98
            ),
            checkpoint=CheckpointConfig(every_steps=4500),
            evals=EvalsConfig(
                tasks={
                    "held_out": TaskConfig(kind="zeroshot", shards="held_out/*.tar", **names),
                    "reading": TaskConfig(kind="zeroshot", shards="reading/*.tar", **names),
                }
            ),
            log=LogConfig(every_steps=200),
        )
    )
