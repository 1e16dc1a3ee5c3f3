"""MetaCLIP: CLIP's recipe on balanced data; --config configs/metaclip.py:NAME.

Xu et al. 2023, https://arxiv.org/abs/2309.16671: 12.8 billion samples in batches of 32,768, quick
GELU, learning rate 5e-4 (4e-4 for L and larger). With a -worldwide preset MetaCLIP 2's, Chuang et
al. 2025, https://arxiv.org/abs/2507.22062: 29 billion samples in batches of 75,264, learning rate
4e-4, beta2 0.95, weight decay 0.1. The data is the method: `clipjax data balance` curates a pool by
counts of metadata (at most 20,000 texts an entry for 400 million pairs, 170,000 for 2.5 billion).

Set --config.data.root and --config.data.shards to what it leaves, and for -worldwide
--config.tokenizer.path to the vocabulary of XLM-V (tokenizer.json).
"""

import dataclasses

import ml_collections

from clipjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    OptimConfig,
    TokenizerConfig,
    TrainConfig,
    preset,
    to_config_dict,
)


def get_config(name: str = "ViT-B-32-quickgelu") -> ml_collections.ConfigDict:
    worldwide = "-worldwide" in name
    batch = 75_264 if worldwide else 32_768
    samples = 29_000_000_000 if worldwide else 12_800_000_000
    large = not name.startswith(("ViT-S", "ViT-M", "ViT-B"))
    return to_config_dict(
        TrainConfig(
            num_steps=samples // batch,
            model=dataclasses.replace(
                preset(name),
                compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True),
            ),
            tokenizer=(
                TokenizerConfig(kind="huggingface", path="tokenizer.json")
                if worldwide
                else TokenizerConfig()
            ),
            data=DataConfig(root="data/metaclip", shards="*.tar", global_batch_size=batch),
            optim=OptimConfig(
                peak_learning_rate=4e-4 if large else 5e-4,
                warmup_steps=2000,
                weight_decay=0.1 if worldwide else 0.2,
                beta2=0.95 if worldwide else 0.98,
            ),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3),
        )
    )
