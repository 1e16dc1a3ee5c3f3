"""Names of HFTextEncoder. What it computes: test_references."""

import dataclasses

import pytest

from clipjax.config import BertConfig, DualEncoderConfig, UsageError, ViTConfig
from clipjax.interchange.open_clip import layout
from clipjax.interchange.transfer import check_tensors
from clipjax.models import param_shapes

SIZES = {"width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 12}
CONFIG = DualEncoderConfig(
    image=ViTConfig(image_size=8, patch_size=4, **SIZES),
    text=BertConfig(vocab_size=20, context_length=6, max_positions=8, **SIZES),
    embed_dim=8,
)


def with_text(**fields):
    return dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, **fields))


def names(config):
    return {
        name
        for entry in layout(config, custom_text=True).entries
        for name in entry.theirs
        if name.startswith("text.")
    }


def test_pooler_and_projection_are_there_as_the_config_has_them():
    linear, bare = names(with_text(projection="linear")), names(with_text(projection="none"))
    assert names(CONFIG) - bare == {"text.proj.0.weight", "text.proj.2.weight"}
    assert linear - bare == {"text.proj.weight"}
    dense = {"text.transformer.pooler.dense.weight", "text.transformer.pooler.dense.bias"}
    assert names(with_text(pool="pooler")) - names(CONFIG) == dense
    assert names(with_text(unused_pooler=True)) - names(CONFIG) == dense


def test_counts_that_older_files_hold_are_no_parameters(drawn_tensors):
    found = layout(CONFIG, custom_text=True)
    tensors = drawn_tensors(found, param_shapes(CONFIG))
    tensors.shapes()["text.transformer.embeddings.position_ids"] = (1, 8)
    check_tensors(found, CONFIG, tensors)


@pytest.mark.parametrize(
    ("config", "custom_text", "message"),
    [
        (CONFIG, False, "CustomTextCLIP only"),
        (with_text(projection="linear_bias"), True, "projections have no bias"),
    ],
)
def test_what_open_clip_does_not_have_is_refused(config, custom_text, message):
    with pytest.raises(UsageError, match=message):
        layout(config, custom_text=custom_text)
