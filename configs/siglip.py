"""SigLIP ViT-B/16: the sigmoid loss, 32,768 pairs a step; --config configs/siglip.py:NAME.

Zhai et al. 2023, section 4: Adafactor as big_vision has it with beta2 0.95 and 16-bit momentum,
learning rate 1e-3, scale 10 and bias -10 at the start. Their weight decay of 1e-4, on kernels only,
is not multiplied by the peak learning rate; ours is, hence 1e-4 / 1e-3 = 0.1. Deviation: a BPE
trained on the run's own captions.

Set --config.data.root and --config.data.shards to your WebDataset shards.
"""

import dataclasses

import ml_collections

from clipjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    LossConfig,
    OptimConfig,
    TrainConfig,
    preset,
    to_config_dict,
)


def get_config(name: str = "ViT-B-16-SigLIP") -> ml_collections.ConfigDict:
    model = dataclasses.replace(
        preset(name), compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True)
    )
    return to_config_dict(
        TrainConfig(
            num_steps=100_000,
            model=model,
            data=DataConfig(root="data/pairs", shards="*.tar", global_batch_size=32_768),
            loss=LossConfig(kind="sigmoid"),
            optim=OptimConfig(
                kind="adafactor",
                peak_learning_rate=1e-3,
                warmup_steps=10_000,
                weight_decay=0.1,
                no_decay=("*/embedding", "*/positions", "*/probe"),
                beta1=0.9,
                beta2=0.95,
                moments_dtype="bfloat16",
            ),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3),
        )
    )
