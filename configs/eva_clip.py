"""EVA-CLIP B/16: LAMB, decay by layers, half of the patches left out, 131,072 pairs a step.

Sun et al. 2023, https://arxiv.org/abs/2303.15389: 8 billion samples, learning rates 4e-4 of the
image tower and 4e-5 of the text tower, 5e-4 of what projects, decayed by 0.85 and 0.75 a block,
weight decay 0.05, 2,000 steps of warm-up. Zero-shot ImageNet 74.7 % as published. The published run
begins at towers that were trained before: --config.init.from=hf:ORG/NAME takes an EVA-CLIP of
open_clip's; without, both begin at random.

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

_BATCH, _SAMPLES = 131_072, 8_000_000_000


def get_config(name: str = "EVA02-B-16") -> ml_collections.ConfigDict:
    start = preset(name)
    model = dataclasses.replace(
        start,
        image=dataclasses.replace(start.image, patch_dropout=0.5),
        compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True),
    )
    return to_config_dict(
        TrainConfig(
            num_steps=_SAMPLES // _BATCH,
            model=model,
            data=DataConfig(root="data/pairs", shards="*.tar", global_batch_size=_BATCH),
            optim=OptimConfig(
                kind="lamb",
                peak_learning_rate=4e-4,
                rates=("text/*=0.1", "*/project/*=1.25", "log_logit_scale=1.25"),
                layer_decay_image=0.85,
                layer_decay_text=0.75,
                warmup_steps=2000,
                weight_decay=0.05,
            ),
            checkpoint=CheckpointConfig(every_steps=1000, keep=3),
        )
    )
