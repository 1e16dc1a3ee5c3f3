"""Presets whose text tower is a BERT, a RoBERTa or an XLM-R; ALIGN and its EfficientNets.

Sizes: Liu et al. 2019, https://arxiv.org/abs/1907.11692 (RoBERTa); Conneau et al. 2019,
https://arxiv.org/abs/1911.02116 (XLM-R); Jia et al. 2021, https://arxiv.org/abs/2102.05918 (ALIGN,
in the sizes of the public weights kakaobrain/align-base); Tan and Le 2019,
https://arxiv.org/abs/1905.11946 (EfficientNet), Xie et al. 2019, https://arxiv.org/abs/1911.04252
(L2).
"""

from clipjax.config.image_towers import EfficientNetConfig, ViTConfig
from clipjax.config.model import DualEncoderConfig
from clipjax.config.text_towers import BertConfig

# name: (factor of widths, of depths, image size, blocks whose stride meets a map of odd side)
_EFFICIENTNETS: dict[str, tuple[float, float, int, tuple[int, ...]]] = {
    "B0": (1.0, 1.0, 224, ()),
    "B1": (1.0, 1.1, 240, (16,)),
    "B2": (1.1, 1.2, 260, (5, 8, 16)),
    "B3": (1.2, 1.4, 300, (5, 18)),
    "B4": (1.4, 1.8, 380, (6,)),
    "B5": (1.6, 2.2, 456, (13, 27)),
    "B6": (1.8, 2.6, 528, (31,)),
    "B7": (2.0, 3.1, 600, (18,)),
    "L2": (4.3, 5.3, 800, ()),
}

EFFICIENTNETS: dict[str, EfficientNetConfig] = {
    name: EfficientNetConfig(
        image_size=image_size,
        width_factor=width,
        depth_factor=depth,
        symmetric_padding=symmetric,
        head=True,
        projection=True,
    )
    for name, (width, depth, image_size, symmetric) in _EFFICIENTNETS.items()
}

_ALIGN_TEXT = BertConfig(
    vocab_size=30522,
    context_length=64,
    max_positions=512,
    first_position=0,
    token_types=2,
    pad_id=0,
    pool="first",
    unused_pooler=True,
    projection="linear_bias",
    norm_eps=1e-12,
)

TEXT_PRESETS: dict[str, DualEncoderConfig] = {
    "roberta-ViT-B-32": DualEncoderConfig(
        image=ViTConfig(activation="quick_gelu"), text=BertConfig()
    ),
    "xlm-roberta-base-ViT-B-32": DualEncoderConfig(text=BertConfig(vocab_size=250_002)),
    "xlm-roberta-large-ViT-H-14": DualEncoderConfig(
        image=ViTConfig(patch_size=14, width=1280, depth=32, num_heads=16, mlp_dim=5120),
        text=BertConfig(vocab_size=250_002, width=1024, depth=24, num_heads=16, mlp_dim=4096),
        embed_dim=1024,
    ),
    "align-base": DualEncoderConfig(
        image=EfficientNetConfig(),
        text=_ALIGN_TEXT,
        embed_dim=640,
        init_logit_scale=1.0,
        exact_temperature=True,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
        resize="squash",
        resize_side=346,
        crop_offset="down",
        interpolation="bilinear",
    ),
}
