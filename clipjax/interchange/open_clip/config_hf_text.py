"""Text towers of transformers in open_clip's config, which knows them by their names."""

import dataclasses
from typing import Any, Literal

from clipjax.config import BertConfig, DualEncoderConfig, UserError
from clipjax.interchange.open_clip.config_transformer import TOKENIZER
from clipjax.interchange.open_clip.families import Model, TextFamily
from clipjax.interchange.open_clip.sections import Section

HF_TEXTS: dict[str, BertConfig] = {
    "roberta-base": BertConfig(),
    "roberta-large": BertConfig(width=1024, depth=24, num_heads=16, mlp_dim=4096),
    "xlm-roberta-base": BertConfig(vocab_size=250_002),
    "xlm-roberta-large": BertConfig(
        vocab_size=250_002, width=1024, depth=24, num_heads=16, mlp_dim=4096
    ),
}
"""The towers by Hugging Face's names, with pooling and projection to be chosen."""

_Pool = Literal["first", "pooler", "mean", "max"]
_Projection = Literal["linear", "linear_bias", "mlp", "none"]
_POOLS: dict[str, _Pool] = {
    "mean_pooler": "mean",
    "max_pooler": "max",
    "cls_pooler": "pooler",
    "cls_last_hidden_state_pooler": "first",
}
_FREE = ("pool", "projection", "context_length")


def _read(section: Section, model: Model) -> BertConfig:
    config = HF_TEXTS[section.take("hf_model_name", str, "")]
    projections: dict[str | None, _Projection] = {"mlp": "mlp", "linear": "linear", None: "none"}
    projection = section.choose("hf_proj_type", projections, "mlp")
    if projection == "none" and config.width != model.embed_dim:
        raise UserError(
            f"{section.where}.hf_proj_type=None needs model_cfg.embed_dim={config.width}."
        )
    width = section.take_or_none("width", int)
    if width not in (None, config.width):
        raise UserError(f"{section.where}.width={width}: this tower has {config.width}.")
    section.ignore("hf_model_pretrained", "output_tokens", *TOKENIZER)
    return dataclasses.replace(
        config,
        pool=section.choose("hf_pooler_type", _POOLS, "mean_pooler"),
        projection=projection,
        context_length=section.take("context_length", int, 77),
    )


def _write(config: DualEncoderConfig) -> dict[str, Any]:
    text = config.text
    assert isinstance(text, BertConfig)
    free = {field: getattr(text, field) for field in _FREE}
    name = next((n for n, t in HF_TEXTS.items() if dataclasses.replace(t, **free) == text), None)
    if name is None or text.projection == "linear_bias":
        raise UserError(
            "open_clip knows text towers of model.text.kind='bert' by Hugging Face's names only, "
            f"and of those there is none like this: {text}."
        )
    return {
        "hf_model_name": name,
        "hf_tokenizer_name": name,
        "hf_proj_type": None if text.projection == "none" else text.projection,
        "hf_pooler_type": next(theirs for theirs, ours in _POOLS.items() if ours == text.pool),
        "context_length": text.context_length,
    }


FAMILY = TextFamily(
    reads=lambda section: section.peek("hf_model_name") in HF_TEXTS,
    names=tuple(HF_TEXTS),
    read=_read,
    writes=lambda config: isinstance(config.text, BertConfig),
    write=_write,
    custom_text=True,
)
