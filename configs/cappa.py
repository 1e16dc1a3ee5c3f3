"""CapPa B/16: an image tower learned from captions alone, 8,192 pairs a step.

Tschannen et al. 2023, https://arxiv.org/abs/2306.07915, and big_vision's configs/proj/cappa: 3
billion samples, Adafactor with beta2 0.999, learning rate 1e-3 after 10,000 steps of warm-up,
weight decay 1e-4 a step, texts of 64 tokens, three quarters of the captions predicted in parallel.
There is no contrast, so the text tower is a stub that stays as it is; tune one to the image tower
afterwards, as in `lit.py`.

Set --config.data.root and --config.data.shards to your WebDataset shards, and
--config.tokenizer.path to a SentencePiece model of 32,000 ids.
"""

import ml_collections

from clipjax.config import (
    CappaDecoderConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    DualEncoderConfig,
    LossConfig,
    OptimConfig,
    TextConfig,
    TokenizerConfig,
    TrainConfig,
    ViTConfig,
    to_config_dict,
)


def get_config() -> ml_collections.ConfigDict:
    model = DualEncoderConfig(
        image=ViTConfig(
            patch_size=16,
            pool="map",
            pre_norm=False,
            patch_bias=True,
            projection=False,
            activation="gelu_tanh",
            norm_eps=1e-6,
        ),
        text=TextConfig(
            vocab_size=32_000,
            context_length=64,
            width=64,
            depth=1,
            num_heads=1,
            mlp_dim=64,
            causal=False,
            pool="last",
        ),
        embed_dim=768,
        decoder=CappaDecoderConfig(),
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
        compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True),
    )
    return to_config_dict(
        TrainConfig(
            num_steps=366_500,
            model=model,
            tokenizer=TokenizerConfig(kind="sentencepiece", path="sentencepiece.model"),
            data=DataConfig(root="data/pairs", shards="*.tar", global_batch_size=8192),
            loss=LossConfig(contrastive_weight=0.0, caption_weight=1.0),
            optim=OptimConfig(
                kind="adafactor",
                peak_learning_rate=1e-3,
                warmup_steps=10_000,
                weight_decay=0.1,
                beta1=0.9,
                beta2=0.999,
                moments_dtype="bfloat16",
                lock_text=0,
            ),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3),
        )
    )
