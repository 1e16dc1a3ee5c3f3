"""FLIP L/16: half of the patches are left out, then a short tuning without; two stages.

Li et al. 2022, https://arxiv.org/abs/2212.00794: 12.8 billion samples in batches of 65,536 with
half of the patches, learning rate 4e-6 x batch / 256, beta2 0.95, 40 of 10,000 virtual epochs (of
1.28 million) of warm-up, crops of at least half of the area; then 128 million samples unmasked at
4e-8 times batch / 256. Zero-shot ImageNet 74.3 % on LAION-400M as published. Texts of 32 tokens,
not causal, the mean of the patches as in the paper.

Set --config.data.root and --config.data.shards to your WebDataset shards, and
--config.tokenizer.path to the vocabulary of a BERT (tokenizer.json).
"""

import dataclasses

import ml_collections

from clipjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    DualEncoderConfig,
    OptimConfig,
    StageConfig,
    TextConfig,
    TokenizerConfig,
    TrainConfig,
    ViTConfig,
    preset,
    to_config_dict,
)

_BATCH, _VIRTUAL_EPOCH = 65_536, 1_280_000
_STEPS = (10_000 * _VIRTUAL_EPOCH // _BATCH, 100 * _VIRTUAL_EPOCH // _BATCH)


def get_config() -> ml_collections.ConfigDict:
    start = preset("ViT-L-16")
    assert isinstance(start.image, ViTConfig)
    assert isinstance(start.text, TextConfig)
    model = DualEncoderConfig(
        image=dataclasses.replace(
            start.image,
            pool="mean",
            unpooled_class_token=True,
            pre_norm=False,
            positions="sincos2d",
            patch_bias=True,
            patch_dropout=0.5,
        ),
        text=dataclasses.replace(
            start.text, vocab_size=30_522, context_length=32, causal=False, pool="mean"
        ),
        embed_dim=start.embed_dim,
        pixel_mean=(0.485, 0.456, 0.406),
        pixel_std=(0.229, 0.224, 0.225),
        compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True),
    )
    return to_config_dict(
        TrainConfig(
            num_steps=sum(_STEPS),
            model=model,
            stages={
                "unmasked": StageConfig(
                    first_step=_STEPS[0],
                    patch_dropout=0.0,
                    peak_learning_rate=4e-8 * _BATCH / 256,
                    warmup_steps=20 * _VIRTUAL_EPOCH // _BATCH,
                )
            },
            tokenizer=TokenizerConfig(kind="huggingface", path="tokenizer.json"),
            data=DataConfig(
                root="data/pairs", shards="*.tar", global_batch_size=_BATCH, crop_scale=(0.5, 1.0)
            ),
            optim=OptimConfig(
                peak_learning_rate=4e-6 * _BATCH / 256,
                warmup_steps=40 * _VIRTUAL_EPOCH // _BATCH,
                weight_decay=0.2,
                beta2=0.95,
                eps=1e-8,
            ),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3),
        )
    )
