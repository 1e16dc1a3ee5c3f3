"""CoCa: contrast and captions, 65,536 pairs a step; --config configs/coca.py:NAME.

Yu et al. 2022, https://arxiv.org/abs/2205.01917, section 4 and appendix: 500,000 steps, Adafactor
with beta1 0.9, beta2 0.999 and weight decay 0.01, learning rate 8e-4 after 2 % of warm-up, linear
to zero, weights 1 of the contrast and 2 of the captions, temperature from 0.07. Deviation: one kind
of pairs (the paper mixes in labels of JFT; `--config.data.mixture` can), decay multiplied by the
learning rate, and a BPE trained on the run's own captions.

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

_STEPS = 500_000


def get_config(name: str = "coca_base") -> ml_collections.ConfigDict:
    model = dataclasses.replace(
        preset(name), compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True)
    )
    return to_config_dict(
        TrainConfig(
            num_steps=_STEPS,
            model=model,
            data=DataConfig(root="data/pairs", shards="*.tar", global_batch_size=65_536),
            loss=LossConfig(contrastive_weight=1.0, caption_weight=2.0),
            optim=OptimConfig(
                kind="adafactor",
                peak_learning_rate=8e-4,
                warmup_steps=_STEPS // 50,
                schedule="linear",
                weight_decay=0.01 / 8e-4,
                beta1=0.9,
                beta2=0.999,
                moments_dtype="bfloat16",
            ),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3),
        )
    )
