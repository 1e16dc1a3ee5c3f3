"""LiT: a locked ImageNet Vision Transformer, and a BERT that learns to read for it.

Zhai et al. 2021, https://arxiv.org/abs/2111.07991, at the settings of big_vision's public example
(learning rate 1e-3, weight decay 0.01, 5,000 steps of 4,096, texts of 16 tokens, no image head).
Both towers are fetched when the run begins; --config.init.image_from and --config.init.text_from
take others. The image tower has no gradient and no moments.

Set --config.data.root and --config.data.shards to your WebDataset shards.
"""

import ml_collections

from clipjax.config import (
    BertConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    DualEncoderConfig,
    InitConfig,
    OptimConfig,
    TrainConfig,
    ViTConfig,
    to_config_dict,
)

_BATCH, _STEPS = 4_096, 5_000


def get_config() -> ml_collections.ConfigDict:
    model = DualEncoderConfig(
        image=ViTConfig(
            patch_size=16, pre_norm=False, patch_bias=True, projection=False, norm_eps=1e-6
        ),
        text=BertConfig(
            vocab_size=30_522,
            context_length=16,
            max_positions=512,
            first_position=0,
            token_types=2,
            pad_id=0,
            pool="first",
            projection="linear_bias",
            norm_eps=1e-12,
        ),
        embed_dim=768,
        init_logit_scale=10.0,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
        resize="squash",
        interpolation="bilinear",
        compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True),
    )
    return to_config_dict(
        TrainConfig(
            num_steps=_STEPS,
            model=model,
            init=InitConfig(
                image_from="hf:timm/vit_base_patch16_224.augreg_in21k",
                text_from="hf:google-bert/bert-base-uncased",
            ),
            data=DataConfig(
                root="data/pairs", shards="*.tar", global_batch_size=_BATCH, crop_scale=(0.9, 1.0)
            ),
            optim=OptimConfig(
                peak_learning_rate=1e-3,
                warmup_steps=150,
                weight_decay=0.01,
                beta2=0.999,
                lock_image=0,
            ),
            checkpoint=CheckpointConfig(every_steps=1000, keep=3),
        )
    )
