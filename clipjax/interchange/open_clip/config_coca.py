"""CoCa's decoder in open_clip's config: `multimodal_cfg`."""

import dataclasses
from typing import Any

from clipjax.config import BertConfig, CocaDecoderConfig, DualEncoderConfig
from clipjax.interchange.open_clip.families import Model
from clipjax.interchange.open_clip.sections import Section

_DEFAULT_VOCABULARY = 49408


def read(section: Section, model: Model) -> CocaDecoderConfig:
    """Returns the decoder of a section; open_clip's MLP is always four times as wide."""
    width = section.take("width", int, 512)
    config = CocaDecoderConfig(
        width=width,
        depth=section.take("layers", int, 12),
        num_heads=section.take("heads", int, 8),
        mlp_dim=4 * width,
        activation="quick_gelu" if model.quick_gelu else "gelu",
    )
    # Read there and not looked at, as long as there is no `ls_init_value`.
    section.ignore("context_length", "vocab_size", "mlp_ratio", "dim_head", "n_queries")
    section.ignore("attn_pooler_heads", "output_tokens", "embed_cls", "pad_id")
    section.only(ls_init_value=(None,))
    section.done()
    return config


def with_vocabulary(config: DualEncoderConfig, text_section: Section) -> DualEncoderConfig:
    """Returns the model with the ids that its decoder predicts: those of `text_cfg.vocab_size`.

    With a text tower of Hugging Face this is open_clip's default, whatever the tower's vocabulary.
    """
    if config.decoder is None or not isinstance(config.text, BertConfig):
        return config
    ids = text_section.take("vocab_size", int, _DEFAULT_VOCABULARY)
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, vocab_size=ids))


def write(config: DualEncoderConfig) -> dict[str, Any]:
    """Returns what a decoder adds to `model_cfg`."""
    decoder, text = config.decoder, config.text
    assert isinstance(decoder, CocaDecoderConfig)
    return {
        "custom_text": True,
        "multimodal_cfg": {
            "context_length": text.context_length,
            "vocab_size": decoder.vocab_size or text.vocab_size,
            "width": decoder.width,
            "heads": decoder.num_heads,
            "layers": decoder.depth,
        },
    }
