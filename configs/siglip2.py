"""SigLIP 2 B/16-256: sigmoid loss, captions and, at the end, its own average; 40 billion samples.

Tschannen et al. 2025, https://arxiv.org/abs/2502.14786, section 2: batches of 32,768, Adafactor as
for SigLIP, 20,000 steps of warm-up, texts of 64 tokens, the captioning loss of a LocCa decoder with
the weight of the contrast. In the last fifth of the steps the image tower also learns from its own
average: small crops (SILC) with weight 1, hidden patches (TIPS) with 0.25, both times 0.25 for a
ViT-B, 0.5 for L, 1 for So400m, 0.5 for g. Deviations: captions only, no boxes; crops are cut out of
the 256 pixels that the other losses see; the sizes of the heads are DINO's with half of the
prototypes, since the paper does not say its own.

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
    PrototypeHeadsConfig,
    SelfDistillConfig,
    StageConfig,
    TokenizerConfig,
    TrainConfig,
    ViTConfig,
    preset,
    to_config_dict,
)

_BATCH, _SAMPLES = 32_768, 40_000_000_000
_STEPS = _SAMPLES // _BATCH
_CROP_WEIGHT, _PATCH_WEIGHT, _CROP_SIZE = 1.0, 0.25, 96
_FACTORS = {768: 0.25, 1024: 0.5, 1152: 1.0, 1536: 0.5}  # by the width of the image tower


def get_config(name: str = "ViT-B-16-SigLIP2-256") -> ml_collections.ConfigDict:
    start = preset(name)
    assert isinstance(start.image, ViTConfig)
    patch, factor = start.image.patch_size, _FACTORS[start.image.width]
    model = dataclasses.replace(
        start,
        decoder=CappaDecoderConfig(
            vocab_size=start.text.vocab_size, context_length=start.text.context_length
        ),
        self_distill=PrototypeHeadsConfig(),
        compute=ComputeConfig(dtype="bfloat16", remat="qkv_attn", scan_layers=True),
    )
    return to_config_dict(
        TrainConfig(
            num_steps=_STEPS,
            stages={
                "pairs": StageConfig(crop_weight=0.0, patch_weight=0.0),
                "self_distillation": StageConfig(first_step=_STEPS * 4 // 5),
            },
            model=model,
            tokenizer=TokenizerConfig(kind="sentencepiece", path="sentencepiece.model"),
            data=DataConfig(root="data/pairs", shards="*.tar", global_batch_size=_BATCH),
            loss=LossConfig(kind="sigmoid", caption_weight=1.0),
            self_distill=SelfDistillConfig(
                crop_weight=_CROP_WEIGHT * factor,
                patch_weight=_PATCH_WEIGHT * factor,
                crop_size=round(_CROP_SIZE / patch) * patch,
            ),
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
