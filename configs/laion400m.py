"""open_clip on LAION-400M: --config configs/laion400m.py:ViT-B-32 (the default), ViT-B-16, ...

32 epochs of 400 million pairs, batch and learning rate as published (open_clip,
docs/PRETRAINED.md): zero-shot ImageNet 62.9 % (B/32), 67.1 (B/16), 69.2 (B/16-plus-240), 72.8
(L/14). On 128 to 400 accelerators; `clipjax plan` says what yours would need.

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
    UsageError,
    preset,
    to_config_dict,
)

_SAMPLES = 32 * 400_000_000
_BATCHES = {
    "ViT-B-32": 32_768,
    "ViT-B-16": 33_792,
    "ViT-B-16-plus-240": 35_840,
    "ViT-L-14": 38_400,
}


def get_config(name: str = "ViT-B-32") -> ml_collections.ConfigDict:
    if name not in _BATCHES:
        raise UsageError(
            f"configs/laion400m.py:{name}: published are {', '.join(_BATCHES)}; configs/clip.py "
            "takes any preset."
        )
    batch, remat = _BATCHES[name], "full" if name == "ViT-L-14" else "names"
    model = dataclasses.replace(
        preset(name), compute=ComputeConfig(dtype="bfloat16", remat=remat, scan_layers=True)
    )
    return to_config_dict(
        TrainConfig(
            num_steps=_SAMPLES // batch,
            model=model,
            data=DataConfig(root="data/laion400m", shards="*.tar", global_batch_size=batch),
            optim=OptimConfig(peak_learning_rate=5e-4, warmup_steps=2000),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3, keep_every_steps=50_000),
        )
    )
