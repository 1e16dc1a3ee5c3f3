"""Arithmetic cost of the towers, for MFU and for planning a run.

A multiply-add counts as two FLOPs; norms, activations, softmax and look-ups are left out. Equals
open_clip's published profile to its two decimals. A training step costs three times the forward
pass.
"""

from clipjax.config import (
    ConvNetConfig,
    DualEncoderConfig,
    ImageConfig,
    TextConfig,
    TrainConfig,
    ViTConfig,
)

TRAIN_OVER_FORWARD = 3

# Dense peak of one device in bfloat16, FLOP/s, from the vendors' data sheets.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


def encoder_forward_flops(*, num_tokens: int, width: int, depth: int, mlp_dim: int) -> int:
    """Returns the matrix-multiply FLOPs of one example through a stack of transformer blocks.

    Per layer, with N tokens, width D and MLP width M: the four attention projections cost 8 N D^2,
    the scores and the weighted sum 4 N^2 D, and the MLP 4 N D M.

    Source: Chowdhery et al. 2022, "PaLM", appendix B, https://arxiv.org/abs/2204.02311.

    >>> encoder_forward_flops(num_tokens=196, width=768, depth=12, mlp_dim=3072)  # ViT-B/16
    34710552576
    """
    attention = 8 * num_tokens * width**2 + 4 * num_tokens**2 * width
    return depth * (attention + 4 * num_tokens * width * mlp_dim)


def image_forward_flops(config: ImageConfig, embed_dim: int, num_patches: int | None = None) -> int:
    """Returns the FLOPs of one image through its tower.

    Args:
        config: of the tower.
        embed_dim: of the shared space.
        num_patches: of an image that is not square, padding included; only for a vit.
    """
    if isinstance(config, ConvNetConfig):
        return _convnet_flops(config, embed_dim)
    return _vit_flops(config, embed_dim, num_patches or config.num_patches)


def _vit_flops(config: ViTConfig, embed_dim: int, patches: int) -> int:
    width = config.width
    tokens = patches + (config.pool == "cls")
    flops = 2 * patches * 3 * config.patch_size**2 * width
    flops += encoder_forward_flops(
        num_tokens=tokens, width=width, depth=config.depth, mlp_dim=config.mlp_dim
    )
    if config.pool == "map":
        flops += 4 * tokens * width**2 + 4 * width**2 + 4 * tokens * width
        flops += 4 * width * config.mlp_dim
    return flops + (2 * width * embed_dim if config.projection else 0)


def _convnet_flops(config: ConvNetConfig, embed_dim: int) -> int:
    side = config.image_size // config.stem_stride
    flops = 2 * 9 * 3 * config.widths[0] * side**2
    for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        if i:
            side //= 2
            flops += 2 * 4 * config.widths[i - 1] * width * side**2
        flops += depth * 2 * 2 * 9 * width**2 * side**2
    return flops + 2 * config.widths[-1] * embed_dim


def text_forward_flops(config: TextConfig, embed_dim: int, num_tokens: int | None = None) -> int:
    """Returns the FLOPs of one text through its tower.

    Args:
        config: of the tower.
        embed_dim: of the shared space.
        num_tokens: of the text, padding included; the context length by default.
    """
    return 2 * config.width * embed_dim + encoder_forward_flops(
        num_tokens=num_tokens or config.context_length,
        width=config.width,
        depth=config.depth,
        mlp_dim=config.mlp_dim,
    )


def pair_forward_flops(
    config: DualEncoderConfig, num_patches: int | None = None, num_tokens: int | None = None
) -> int:
    """Returns the FLOPs of one pair through both towers; the loss is left out.

    Args:
        config: of the model.
        num_patches: as in `image_forward_flops`.
        num_tokens: as in `text_forward_flops`.
    """
    return image_forward_flops(config.image, config.embed_dim, num_patches) + text_forward_flops(
        config.text, config.embed_dim, num_tokens
    )


def trained_pair_forward_flops(config: TrainConfig, num_tokens: int | None = None) -> int:
    """Returns the FLOPs of one pair as a run sees it; padding counts.

    Args:
        config: of the run.
        num_tokens: of a text in a batch of `data.text_buckets`; the context length by default.
    """
    most = config.data.max_patches if config.data.image_mode == "naflex" else None
    return pair_forward_flops(config.model, most, num_tokens)


def peak_flops(device_kind: str) -> float | None:
    """Returns the bfloat16 peak of a device in FLOP/s, or None if the kind is not in the table.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("cpu")
    (989000000000000.0, None)
    """
    known = [kind for kind in PEAK_FLOPS if device_kind.startswith(kind)]
    return PEAK_FLOPS[max(known, key=len)] if known else None
