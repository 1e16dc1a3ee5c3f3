"""ALIGN: EfficientNet-B7 and BERT-base from noisy alt-texts, LAMB, 16,384 pairs a step.

Jia et al. 2021, https://arxiv.org/abs/2102.05918, section 5: LAMB with weight decay 1e-5, learning
rate 1e-3 after 10,000 steps of warm-up and linear to zero over 1.2 million steps, label smoothing
0.1, learned temperature from 1. Deviation: the published sizes are L2 and BERT-large; these are
those whose weights exist (preset align-base), about 1.6e21 FLOP. Batch norms take the statistics of
the whole batch, hence no micro-batches. Nothing is split over `fsdp`: `clipjax plan --quick` for
v5e:16x16 says 14.5 GiB a chip, and 167 with the default of fsdp=16; why, is not known.

Set --config.data.root and --config.data.shards to your WebDataset shards, and
--config.tokenizer.path to the tokenizer.json of a BERT (uncased).
"""

import dataclasses

import ml_collections

from clipjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    LossConfig,
    MeshConfig,
    OptimConfig,
    TokenizerConfig,
    TrainConfig,
    preset,
    to_config_dict,
)


def get_config() -> ml_collections.ConfigDict:
    model = dataclasses.replace(
        preset("align-base"),
        exact_temperature=False,  # of a temperature that was read
        compute=ComputeConfig(dtype="bfloat16", remat="names"),
    )
    return to_config_dict(
        TrainConfig(
            num_steps=1_200_000,
            model=model,
            tokenizer=TokenizerConfig(kind="huggingface", path="tokenizer.json"),
            data=DataConfig(root="data/pairs", shards="*.tar", global_batch_size=16_384),
            loss=LossConfig(label_smoothing=0.1),
            optim=OptimConfig(
                kind="lamb",
                peak_learning_rate=1e-3,
                warmup_steps=10_000,
                schedule="linear",
                weight_decay=1e-5,
                beta2=0.999,
                clip_norm=None,
            ),
            mesh=MeshConfig(fsdp=1),
            checkpoint=CheckpointConfig(every_steps=2000, keep=3),
        )
    )
