"""CoCa: contrast and captions from one pass, for the presets coca_ViT-B-32 and coca_ViT-L-14.

Yu et al. 2022, https://arxiv.org/abs/2205.01917: the captioning loss counts twice, the contrastive
one once; batch 65,536 and 500,000 steps on the scale of thousands of accelerators. Deviation: AdamW
with a cosine in place of Adafactor with a linear decay; images of the size of the preset. The
logits of captions are never formed: they come in blocks of `loss.caption_block` ids.

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

_BATCH, _STEPS = 65_536, 500_000


def get_config(name: str = "coca_ViT-B-32") -> ml_collections.ConfigDict:
    model = dataclasses.replace(
        preset(name), compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True)
    )
    return to_config_dict(
        TrainConfig(
            num_steps=_STEPS,
            model=model,
            loss=LossConfig(contrastive_weight=1.0, caption_weight=2.0),
            data=DataConfig(
                root="data/pairs", shards="*.tar", global_batch_size=_BATCH, crop_scale=(0.9, 1.0)
            ),
            optim=OptimConfig(
                peak_learning_rate=8e-4, warmup_steps=_STEPS // 50, weight_decay=0.01, beta2=0.999
            ),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3, keep_every_steps=50_000),
        )
    )
