"""CLIPA-v2 H/14: small pictures and short texts first, then larger and longer; three stages.

Li et al. 2023, https://arxiv.org/abs/2306.15658: 12.8 billion samples at 84 pixels and 8 tokens in
batches of 65,536, 512 million at 224 pixels and 32 tokens with 30 % of the patches left out, 128
million at 336 pixels with 40 %; learning rates 8e-6 and 4e-7 times batch / 256, beta2 0.95,
16-bit momentum. Zero-shot ImageNet 81.8 % as published. One run, compiled ahead for all three
stages; positions are learned at 336 pixels. Deviation: texts are cut, not thinned out by syntax.

Set --config.data.root and --config.data.shards to your WebDataset shards, and
--config.tokenizer.path to the vocabulary of a BERT with 32,000 ids (tokenizer.json).
"""

import dataclasses

import ml_collections

from clipjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    OptimConfig,
    StageConfig,
    TokenizerConfig,
    TrainConfig,
    preset,
    to_config_dict,
)

_BATCH, _LATER_BATCH = 65_536, 32_768
_STEPS = (12_800_000_000 // _BATCH, 512_000_000 // _LATER_BATCH, 128_000_000 // _LATER_BATCH)


def get_config(name: str = "ViT-H-14-CLIPA-336") -> ml_collections.ConfigDict:
    model = dataclasses.replace(
        preset(name), compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True)
    )
    return to_config_dict(
        TrainConfig(
            num_steps=sum(_STEPS),
            model=model,
            stages={
                "small": StageConfig(image_size=84, context_length=8),
                "medium": StageConfig(
                    first_step=_STEPS[0],
                    image_size=224,
                    patch_dropout=0.3,
                    global_batch_size=_LATER_BATCH,
                    peak_learning_rate=4e-7 * _LATER_BATCH / 256,
                    warmup_steps=800,
                ),
                "large": StageConfig(
                    first_step=_STEPS[0] + _STEPS[1],
                    patch_dropout=0.4,
                    global_batch_size=_LATER_BATCH,
                    peak_learning_rate=4e-7 * _LATER_BATCH / 256,
                    warmup_steps=800,
                ),
            },
            tokenizer=TokenizerConfig(kind="huggingface", path="tokenizer.json"),
            data=DataConfig(
                root="data/pairs", shards="*.tar", global_batch_size=_BATCH, crop_scale=(0.4, 1.0)
            ),
            optim=OptimConfig(
                peak_learning_rate=8e-6 * _BATCH / 256,
                warmup_steps=3200,
                weight_decay=0.2,
                beta2=0.95,
                eps=1e-8,
                moments_dtype="bfloat16",
            ),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3),
        )
    )
