"""open_clip's config of CLIP with its own Vision Transformer."""

from collections.abc import Mapping
from typing import Any

from clipjax.config import DualEncoderConfig, TextConfig, UserError, ViTConfig

_VISION = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "norm_kwargs"}
_VISION |= {"ls_init_value"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs"}
_TEXT |= {"ls_init_value"}
_TOP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}
_TOP |= {"init_logit_scale", "init_logit_bias"}


def from_open_clip(model_cfg: Mapping[str, Any]) -> tuple[DualEncoderConfig, dict[str, Any]]:
    """Returns our config and the options of the layout.

    Args:
        model_cfg: of an open_clip_config.json.

    Raises:
        UserError: if it says something that is not read here.
    """
    _known("model_cfg", model_cfg, _TOP)
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    _known("vision_cfg", vision, _VISION)
    _known("text_cfg", text, _TEXT)
    activation = "quick_gelu" if model_cfg.get("quick_gelu") else "gelu"
    width, text_width = vision.get("width", 768), text.get("width", 512)
    config = DualEncoderConfig(
        image=ViTConfig(
            image_size=vision.get("image_size", 224),
            patch_size=vision.get("patch_size", 16),
            width=width,
            depth=vision.get("layers", 12),
            num_heads=width // vision.get("head_width", 64),
            mlp_dim=int(width * vision.get("mlp_ratio", 4.0)),
            layer_scale=vision.get("ls_init_value"),
            norm_eps=vision.get("norm_kwargs", {}).get("eps", 1e-5),
            activation=activation,
        ),
        text=TextConfig(
            context_length=text.get("context_length", 77),
            vocab_size=text.get("vocab_size", 49408),
            width=text_width,
            depth=text.get("layers", 12),
            num_heads=text.get("heads", 8),
            mlp_dim=int(text_width * text.get("mlp_ratio", 4.0)),
            layer_scale=text.get("ls_init_value"),
            norm_eps=text.get("norm_kwargs", {}).get("eps", 1e-5),
            activation=activation,
        ),
        embed_dim=model_cfg["embed_dim"],
        init_logit_bias=model_cfg.get("init_logit_bias"),
    )
    return config, {"custom_text": bool(model_cfg.get("custom_text", False))}


def to_open_clip(config: DualEncoderConfig) -> dict[str, Any]:
    """Returns the model_cfg of an open_clip_config.json.

    Raises:
        UserError: if open_clip's plain CLIP cannot be it.
    """
    vit, text = config.image, config.text
    if not isinstance(vit, ViTConfig) or not isinstance(text, TextConfig):
        raise UserError(
            f"towers {config.image.kind!r} and {config.text.kind!r} cannot be written as open_clip."
        )
    if vit.activation != text.activation or vit.activation not in ("gelu", "quick_gelu"):
        raise UserError(
            f"activations {vit.activation!r} and {text.activation!r} cannot be written as "
            "open_clip: expected gelu or quick_gelu, the same in both towers."
        )

    def norm(eps: float) -> dict[str, Any]:
        return {} if eps == 1e-5 else {"norm_kwargs": {"eps": eps}}

    def scale(start: float | None) -> dict[str, Any]:
        return {} if start is None else {"ls_init_value": start}

    bias = {} if config.init_logit_bias is None else {"init_logit_bias": config.init_logit_bias}
    return {
        "embed_dim": config.embed_dim,
        "quick_gelu": vit.activation == "quick_gelu",
        **bias,
        "vision_cfg": {
            "image_size": vit.image_size,
            "layers": vit.depth,
            "width": vit.width,
            "head_width": vit.width // vit.num_heads,
            "mlp_ratio": vit.mlp_dim / vit.width,
            "patch_size": vit.patch_size,
            **norm(vit.norm_eps),
            **scale(vit.layer_scale),
        },
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.num_heads,
            "layers": text.depth,
            "mlp_ratio": text.mlp_dim / text.width,
            **norm(text.norm_eps),
            **scale(text.layer_scale),
        },
    }


def _known(name: str, section: Any, known: set[str]) -> None:
    if not isinstance(section, Mapping):
        raise UserError(f"{name} is {section!r:.60}, expected an object.")
    if unknown := sorted(set(section) - known):
        raise UserError(f"{name}.{unknown[0]}={section[unknown[0]]!r:.60} is not read here.")
