"""DataComp: --config configs/datacomp.py:small (the default), medium, large or xlarge.

The constants of the benchmark: Gadre et al. 2023, https://arxiv.org/abs/2304.14108, table 1 and the
appendix on training. ViT-B/32 in batches of 4,096 over 12.8 or 128 million samples, ViT-B/16 in
8,192 over 1.28 billion, ViT-L/14 in 90,112 over 12.8 billion. small takes about 5.7e17 FLOP and one
GPU. Deviation: every pair once an epoch in a fixed order instead of drawing with replacement
(`--config.data.mixture` has that), and a BPE trained on the run's own captions.

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
    UsageError,
    preset,
    to_config_dict,
)

# model, batch, samples, learning rate, warm-up steps, beta2
_SCALES = {
    "small": ("ViT-B-32", 4096, 12_800_000, 5e-4, 500, 0.98),
    "medium": ("ViT-B-32", 4096, 128_000_000, 5e-4, 500, 0.98),
    "large": ("ViT-B-16", 8192, 1_280_000_000, 5e-4, 500, 0.98),
    "xlarge": ("ViT-L-14", 90_112, 12_800_000_000, 1e-3, 10_000, 0.95),
}


def get_config(scale: str = "small") -> ml_collections.ConfigDict:
    if scale not in _SCALES:
        raise UsageError(f"configs/datacomp.py:{scale}: the scales are {', '.join(_SCALES)}.")
    name, batch, samples, rate, warmup, beta2 = _SCALES[scale]
    return to_config_dict(
        TrainConfig(
            num_steps=samples // batch,
            model=dataclasses.replace(
                preset(name), compute=ComputeConfig(dtype="bfloat16", remat="names")
            ),
            data=DataConfig(
                root=f"data/datacomp_{scale}",
                shards="*.tar",
                global_batch_size=batch,
                crop_scale=(0.9, 1.0),
            ),
            optim=OptimConfig(peak_learning_rate=rate, warmup_steps=warmup, beta2=beta2),
            checkpoint=CheckpointConfig(every_steps=500),
        )
    )
