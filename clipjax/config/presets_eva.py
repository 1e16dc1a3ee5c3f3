"""EVA-CLIP, Sun et al. 2023, table 1, https://arxiv.org/abs/2303.15389."""

from clipjax.config.image_towers import EvaConfig
from clipjax.config.model import DualEncoderConfig
from clipjax.config.text_towers import TextConfig

_G = EvaConfig(
    patch_size=14,
    width=1408,
    depth=40,
    num_heads=16,
    mlp_dim=6144,
    swiglu=False,
    mlp_norm=False,
    attention_norm=False,
    rope=False,
    fused_qkv=True,
)
_E = EvaConfig(
    patch_size=14,
    width=1792,
    depth=64,
    num_heads=16,
    mlp_dim=15360,
    swiglu=False,
    mlp_norm=False,
    attention_norm=False,
    post_norm=True,
    rope=False,
    fused_qkv=True,
)


def _large(image_size: int) -> EvaConfig:
    return EvaConfig(
        image_size=image_size, patch_size=14, width=1024, depth=24, num_heads=16, mlp_dim=2730
    )


def _model(image: EvaConfig, width: int, depth: int, embed_dim: int) -> DualEncoderConfig:
    text = TextConfig(width=width, depth=depth, num_heads=width // 64, mlp_dim=4 * width)
    return DualEncoderConfig(image=image, text=text, embed_dim=embed_dim)


EVA: dict[str, DualEncoderConfig] = {
    "EVA01-g-14": _model(_G, 768, 12, 1024),
    "EVA01-g-14-plus": _model(_G, 1024, 24, 1024),
    "EVA02-B-16": _model(EvaConfig(), 512, 12, 512),
    "EVA02-L-14": _model(_large(224), 768, 12, 768),
    "EVA02-L-14-336": _model(_large(336), 768, 12, 768),
    "EVA02-E-14": _model(_E, 1024, 24, 1024),
    "EVA02-E-14-plus": _model(_E, 1280, 32, 1024),
}
