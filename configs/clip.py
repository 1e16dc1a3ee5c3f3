"""CLIP as published, for any preset: --config configs/clip.py:ViT-B-32 (the default).

Batch 32,768, 12.8 billion samples, AdamW with cosine decay: Radford et al. 2021, section 2.5 and
tables 18-20; beta2 and epsilon of a ResNet are other ones. On the scale of 128 to 256 accelerators;
take `datacomp.py:small` for one.

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
_RATES = {"RN50x16": 4e-4, "RN50x64": 3.6e-4}
_LARGE = ("ViT-L", "ViT-H", "ViT-g", "ViT-bigG", "ViT-e")


def get_config(name: str = "ViT-B-32") -> ml_collections.ConfigDict:
    model = dataclasses.replace(
        preset(name), compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True)
    )
    resnet = name.startswith("RN")
    return to_config_dict(
        TrainConfig(
            num_steps=_SAMPLES // _BATCH,
            model=model,
            data=DataConfig(
                root="data/pairs", shards="*.tar", global_batch_size=_BATCH, crop_scale=(0.9, 1.0)
            ),
            optim=OptimConfig(
                peak_learning_rate=_RATES.get(name.removesuffix("-quickgelu"), _rate_of(name)),
                warmup_steps=2000,
                beta2=0.999 if resnet else 0.98,
                eps=1e-8 if resnet else 1e-6,
            ),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3, keep_every_steps=50_000),
        )
    )


def _rate_of(name: str) -> float:
    return 4e-4 if name.startswith(_LARGE) else 5e-4
