"""CLIP as published, for any preset: --config configs/clip.py:ViT-B-32 (the default).

Batch 32,768, 12.8 billion samples, AdamW with cosine decay: Radford et al. 2021, section 2.5 and
tables 18-20. On the scale of 128 to 256 accelerators; take `datacomp_small.py` for one.

Set --config.data.root and --config.data.shards to your WebDataset shards.
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

_BATCH = 32_768
_SAMPLES = 12_800_000_000


def get_config(name: str = "ViT-B-32") -> ml_collections.ConfigDict:
    model = dataclasses.replace(
        preset(name), compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True)
    )
    large = name.startswith(("ViT-L", "ViT-H", "ViT-g", "ViT-bigG", "ViT-e"))
    return to_config_dict(
        TrainConfig(
            num_steps=_SAMPLES // _BATCH,
            model=model,
            data=DataConfig(
                root="data/pairs", shards="*.tar", global_batch_size=_BATCH, crop_scale=(0.9, 1.0)
            ),
            optim=OptimConfig(peak_learning_rate=4e-4 if large else 5e-4, warmup_steps=2000),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3, keep_every_steps=50_000),
        )
    )
