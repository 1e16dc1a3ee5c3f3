"""open_clip's own transformers in its config: VisionTransformer and TextTransformer."""

import math
from typing import Any, Literal

from clipjax.config import DualEncoderConfig, TextConfig, UserError, ViTConfig
from clipjax.config.fields import Activation
from clipjax.interchange.open_clip.families import ImageFamily, Model, TextFamily
from clipjax.interchange.open_clip.sections import Section
from clipjax.interchange.open_clip.timm_vit import is_timm

_ImagePool = Literal["cls", "mean", "coca"]
_TextPool = Literal["eot", "last", "class"]
_PLAIN_BLOCKS: dict[str, tuple[Any, ...]] = {
    "block_type": (None, "default"),
    **{
        name: (False,)
        for name in (
            "qk_norm",
            "scaled_cosine_attn",
            "scale_heads",
            "scale_attn_inner",
            "scale_attn",
            "scale_fc",
        )
    },
}
_NO_TIMM = ("timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj")
_NO_TIMM += ("timm_proj_bias", "timm_drop", "timm_drop_path")
_NO_HF = ("hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type")
TOKENIZER = ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")
"""Settings of `text_cfg` that do not concern the tower."""


def _read_image(section: Section, model: Model) -> ViTConfig:
    width, depth = section.take("width", int, 768), section.take("layers", int, 12)
    pools: dict[str, _ImagePool] = {"tok": "cls", "avg": "mean"}
    pool = section.choose("pool_type", pools, "tok")
    norm_behind = section.take("final_ln_after_pool", bool, False)
    if section.choose("attentional_pool", {False: False, True: True}, False):
        if pool != "cls":
            raise UserError(
                f"{section.where}.pool_type='avg' is not supported with attentional_pool."
            )
        pool = "coca"
    section.choose("pos_embed_type", {"learnable": None, "sin_cos_2d": None}, "learnable")
    config = ViTConfig(
        image_size=section.side("image_size", 224),
        patch_size=section.side("patch_size", 16),
        width=width,
        depth=depth,
        num_heads=_heads(section, width),
        mlp_dim=int(width * section.take("mlp_ratio", float, 4.0)),
        pool=pool,
        unpooled_class_token=pool == "mean",
        norm_before_pool=pool == "mean" and not norm_behind,
        pre_norm=not section.take("no_ln_pre", bool, False),
        layer_scale=section.take_or_none("ls_init_value", float),
        patch_dropout=section.take("patch_dropout", float, 0.0),
        pooler_queries=section.take("attn_pooler_queries", int, 256),
        pooler_heads=section.take("attn_pooler_heads", int, 8),
        activation=read_activation(section, model),
        norm_eps=read_norm_eps(section),
    )
    section.only(**_PLAIN_BLOCKS)
    section.ignore("output_tokens", *_NO_TIMM)
    return config


def _heads(section: Section, width: int) -> int:
    head_width = section.take("head_width", int, 64)
    if head_width < 1 or width % head_width:
        raise UserError(f"{section.where}.head_width={head_width} does not divide width={width}.")
    return width // head_width


def _write_image(config: DualEncoderConfig) -> dict[str, Any]:
    vit = config.image
    assert isinstance(vit, ViTConfig)
    section: dict[str, Any] = {
        "image_size": vit.image_size,
        "layers": vit.depth,
        "width": vit.width,
        "head_width": vit.width // vit.num_heads,
        "patch_size": vit.patch_size,
        "mlp_ratio": mlp_ratio(vit.width, vit.mlp_dim),
        **write_norm_eps(vit.norm_eps),
        **write_activation(vit.activation),
    }
    if vit.layer_scale is not None:
        section["ls_init_value"] = vit.layer_scale
    if vit.patch_dropout:
        section["patch_dropout"] = vit.patch_dropout
    if not vit.pre_norm:
        section["no_ln_pre"] = True
    if vit.pool == "mean":
        section |= {"pool_type": "avg", "final_ln_after_pool": not vit.norm_before_pool}
    if vit.pool == "coca":
        section["attentional_pool"] = True
    if vit.pool == "coca" or (vit.pooler_queries, vit.pooler_heads) != (256, 8):
        section["attn_pooler_queries"] = vit.pooler_queries
        section["attn_pooler_heads"] = vit.pooler_heads
    return section


def _read_text(section: Section, model: Model) -> TextConfig:
    width = section.take("width", int, 512)
    pools: dict[str, _TextPool] = {"argmax": "eot", "eos": "eot", "last": "last"}
    pool = section.choose("pool_type", pools, "argmax")
    end_id: int | None = section.take("eos_id", int, 2)
    # The greatest id is the last one of the vocabulary. Where none is looked for, open_clip's
    # default says nothing about the tokenizer.
    by_id = section.peek("pool_type") == "eos"
    if not by_id and (pool == "eot" or "eos_id" not in section):
        end_id = None
    if section.take("embed_cls", bool, False):
        pool = "class"
    config = TextConfig(
        vocab_size=section.take("vocab_size", int, 49408),
        context_length=section.take("context_length", int, 77),
        end_id=end_id,
        pad_id=section.take("pad_id", int, 0),
        width=width,
        depth=section.take("layers", int, 12),
        num_heads=section.take("heads", int, 8),
        mlp_dim=int(width * section.take("mlp_ratio", float, 4.0)),
        causal=not section.take("no_causal_mask", bool, False),
        pool=pool,
        class_mask="shifted" if pool == "class" else "exact",
        projection=section.choose("proj_type", {"linear": True, "none": False}, "linear"),
        projection_bias=section.take("proj_bias", bool, False),
        layer_scale=section.take_or_none("ls_init_value", float),
        activation=read_activation(section, model),
        norm_eps=read_norm_eps(section),
    )
    section.only(**_PLAIN_BLOCKS)
    # open_clip has final_ln_after_pool for texts too and does not look at it.
    section.ignore("output_tokens", "final_ln_after_pool", *TOKENIZER, *_NO_HF)
    return config


def _write_text(config: DualEncoderConfig) -> dict[str, Any]:
    text = config.text
    assert isinstance(text, TextConfig)
    section: dict[str, Any] = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.num_heads,
        "layers": text.depth,
        "mlp_ratio": mlp_ratio(text.width, text.mlp_dim),
        **write_norm_eps(text.norm_eps),
        **write_activation(text.activation),
    }
    if text.layer_scale is not None:
        section["ls_init_value"] = text.layer_scale
    if not text.causal:
        section["no_causal_mask"] = True
    if text.pool == "last":
        section["pool_type"] = "last"
    elif text.pool == "class":
        section |= {"embed_cls": True, "pad_id": text.pad_id}
    elif text.pool == "eot" and text.end_id is not None:
        section["pool_type"] = "eos"
    if text.end_id is not None:
        section["eos_id"] = text.end_id
    if text.pad_id:
        section["pad_id"] = text.pad_id
    if not text.projection:
        section["proj_type"] = "none"
    if text.projection_bias:
        section["proj_bias"] = True
    return section


def read_activation(section: Section, model: Model) -> Activation:
    """Returns the activation of one of open_clip's transformers."""
    kwargs = section.take_or_none("act_kwargs", dict)
    inner = Section(kwargs or {}, f"{section.where}.act_kwargs")
    tanh = inner.choose("approximate", {"none": False, "tanh": True}, "none")
    inner.done()
    if model.quick_gelu and kwargs:
        raise UserError(f"{section.where}.act_kwargs={kwargs!r} is not supported with quick_gelu.")
    if model.quick_gelu:
        return "quick_gelu"
    return "gelu_tanh" if tanh else "gelu"


def write_activation(activation: Activation) -> dict[str, Any]:
    """Returns the settings of an activation; quick GELU is a switch of the whole model."""
    return {"act_kwargs": {"approximate": "tanh"}} if activation == "gelu_tanh" else {}


def read_norm_eps(section: Section) -> float:
    """Returns the epsilon of the norms of one of open_clip's transformers."""
    kwargs = section.take_or_none("norm_kwargs", dict)
    inner = Section(kwargs or {}, f"{section.where}.norm_kwargs")
    eps = inner.take("eps", float, 1e-5)
    inner.done()
    return eps


def write_norm_eps(eps: float) -> dict[str, Any]:
    """Returns the settings of an epsilon that is not torch's default."""
    return {} if eps == 1e-5 else {"norm_kwargs": {"eps": eps}}


def mlp_ratio(width: int, mlp_dim: int) -> float:
    """Returns the shortest number that times the width, rounded down, is the width of an MLP.

    >>> mlp_ratio(1152, 4304), mlp_ratio(768, 3072)
    (3.7362, 4.0)
    """
    for digits in range(1, 16):
        ratio = math.ceil(mlp_dim / width * 10**digits) / 10**digits
        if int(width * ratio) == mlp_dim:
            return ratio
    return mlp_dim / width


def _is_own(config: DualEncoderConfig) -> bool:
    return isinstance(config.image, ViTConfig) and not is_timm(config.image)


def _image_quick(config: DualEncoderConfig) -> bool:
    assert isinstance(config.image, ViTConfig)
    return config.image.activation == "quick_gelu"


def _text_quick(config: DualEncoderConfig) -> bool:
    assert isinstance(config.text, TextConfig)
    return config.text.activation == "quick_gelu"


IMAGE = ImageFamily(
    reads=lambda section: (
        section.peek("timm_model_name") is None and not isinstance(section.peek("layers"), list)
    ),
    read=_read_image,
    writes=_is_own,
    write=_write_image,
    quick_gelu=_image_quick,
)
TEXT = TextFamily(
    reads=lambda section: section.peek("hf_model_name") is None,
    read=_read_text,
    writes=lambda config: isinstance(config.text, TextConfig),
    write=_write_text,
    quick_gelu=_text_quick,
)
