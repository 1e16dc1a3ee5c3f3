"""CoCa models by open_clip's names, with its sizes.

Yu et al. 2022, https://arxiv.org/abs/2205.01917. Parameters and FLOPs are tested against those that
open_clip publishes.
"""

import dataclasses

from clipjax.config.image_towers import ViTConfig
from clipjax.config.model import DualEncoderConfig
from clipjax.config.text_towers import BertConfig, CocaDecoderConfig, TextConfig


def _text(width: int, vocab_size: int) -> TextConfig:
    return TextConfig(
        vocab_size=vocab_size,
        context_length=76,
        width=width,
        num_heads=width // 64,
        mlp_dim=4 * width,
        pool="class",
        class_mask="shifted",
    )


def _decoder(width: int) -> CocaDecoderConfig:
    return CocaDecoderConfig(width=width, num_heads=width // 64, mlp_dim=4 * width)


COCA = {
    "coca_ViT-B-32": DualEncoderConfig(
        image=ViTConfig(pool="coca"), text=_text(512, 49408), decoder=_decoder(512)
    ),
    "coca_ViT-L-14": DualEncoderConfig(
        image=ViTConfig(
            patch_size=14, width=1024, depth=24, num_heads=16, mlp_dim=4096, pool="coca"
        ),
        text=_text(768, 49408),
        decoder=_decoder(768),
        embed_dim=768,
    ),
    "coca_base": DualEncoderConfig(
        image=ViTConfig(image_size=288, patch_size=18),
        text=_text(768, 64000),
        decoder=_decoder(768),
    ),
    # The decoder knows the ids of CLIP's vocabulary only, also with this text tower.
    "coca_roberta-ViT-B-32": DualEncoderConfig(
        image=ViTConfig(),
        text=BertConfig(projection="linear"),
        decoder=dataclasses.replace(_decoder(768), num_heads=8, vocab_size=49408),
    ),
}
