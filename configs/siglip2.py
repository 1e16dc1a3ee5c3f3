"""SigLIP 2 B/16-256: the sigmoid loss and a captioning decoder, 40 billion samples.

Tschannen et al. 2025, https://arxiv.org/abs/2502.14786, section 2: batches of 32,768, Adafactor as
for SigLIP, 20,000 steps of warm-up, texts of 64 tokens, the captioning loss of a LocCa decoder with
the weight of the contrast. Deviation: captions only, no boxes; and without the self-distillation
and masked prediction of the last fifth of the steps, whose losses are here
(`clipjax.losses.self_distillation`) but not yet their heads and crops.

Set --config.data.root and --config.data.shards to your WebDataset shards, and
--config.tokenizer.path to a SentencePiece model of 256,000 ids (Gemma's).
"""

import dataclasses

import ml_collections

from clipjax.config import (
    CappaDecoderConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    LossConfig,
    OptimConfig,
    TokenizerConfig,
    TrainConfig,
    preset,
    to_config_dict,
)

_BATCH, _SAMPLES = 32_768, 40_000_000_000


def get_config(name: str = "ViT-B-16-SigLIP2-256") -> ml_collections.ConfigDict:
    start = preset(name)
    model = dataclasses.replace(
        start,
        decoder=CappaDecoderConfig(
            vocab_size=start.text.vocab_size, context_length=start.text.context_length
        ),
        compute=ComputeConfig(dtype="bfloat16", remat="names", scan_layers=True),
    )
    return to_config_dict(
        TrainConfig(
            num_steps=_SAMPLES // _BATCH,
            model=model,
            tokenizer=TokenizerConfig(kind="sentencepiece", path="sentencepiece.model"),
            data=DataConfig(root="data/pairs", shards="*.tar", global_batch_size=_BATCH),
            loss=LossConfig(kind="sigmoid", caption_weight=1.0),
            optim=OptimConfig(
                kind="adafactor",
                peak_learning_rate=1e-3,
                warmup_steps=20_000,
                weight_decay=0.1,
                beta1=0.9,
                beta2=0.95,
                moments_dtype="bfloat16",
            ),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3),
        )
    )
