"""DataComp "small": ViT-B/32, batch 4,096, 12.8 million samples; within reach of one GPU.

The constants of the benchmark's scale: Gadre et al. 2023, https://arxiv.org/abs/2304.14108, table 1
and appendix on training (learning rate 5e-4, 500 warm-up steps, weight decay 0.2). About 5.7e17
FLOP. Deviation: every pair once an epoch in a fixed order instead of drawing with replacement, and
a BPE trained on the run's own captions.

Set --config.data.root to where the shards of the pool lie.
"""

import dataclasses

import ml_collections

from clipjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    OptimConfig,
    TrainConfig,
    preset,
    to_config_dict,
)


def get_config() -> ml_collections.ConfigDict:
    return to_config_dict(
        TrainConfig(
            num_steps=12_800_000 // 4096,
            model=dataclasses.replace(
                preset("ViT-B-32"), compute=ComputeConfig(dtype="bfloat16", remat="names")
            ),
            data=DataConfig(
                root="data/datacomp_small",
                shards="*.tar",
                global_batch_size=4096,
                crop_scale=(0.9, 1.0),
            ),
            optim=OptimConfig(peak_learning_rate=5e-4, warmup_steps=500),
            checkpoint=CheckpointConfig(every_steps=500),
        )
    )
