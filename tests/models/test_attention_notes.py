import dataclasses

import jax.numpy as jnp
import pytest
from flax import nnx

from clipjax.config import (
    BertConfig,
    CappaDecoderConfig,
    CocaDecoderConfig,
    ComputeConfig,
    ModernTextConfig,
    UsageError,
)
from clipjax.models import attention_notes as notes
from clipjax.models import with_params
from clipjax.models.layers import dot_product
from clipjax.models.params import abstract_model


@pytest.fixture
def on_gpu(monkeypatch):
    for module in (dot_product, notes):
        monkeypatch.setattr(module, "target", lambda: ("gpu", "NVIDIA H100 80GB HBM3"))
    monkeypatch.setattr(dot_product, "_cudnn", dot_product._xla)


def half(config, **fields):
    return dataclasses.replace(config, compute=ComputeConfig(dtype="bfloat16", **fields))


def test_a_tower_that_masks_its_padding_is_named_with_the_reason(tiny, on_gpu):
    text = BertConfig(vocab_size=20, context_length=6, width=16, depth=2, num_heads=2, mlp_dim=24)
    lines = notes.attention_notes(half(tiny.model(text=text)))
    assert len(lines) == 1
    assert lines[0].startswith("model.text: attention by XLA, not cuDNN: a mask of single tokens")
    assert notes.attention_notes(half(tiny.model())) == []


def test_patches_of_images_of_any_shape_are_masked(tiny, on_gpu):
    lines = notes.attention_notes(half(tiny.model()), num_patches=9)
    assert [line.partition(":")[0] for line in lines] == ["model.image"]


def test_nothing_is_said_without_a_gpu_or_where_xla_was_asked_for(tiny, on_gpu, monkeypatch):
    assert len(notes.attention_notes(tiny.model())) == 2  # float32
    assert notes.attention_notes(half(tiny.model(), attention="xla")) == []
    monkeypatch.setattr(notes, "target", lambda: ("cpu", "cpu"))
    assert notes.attention_notes(tiny.model()) == []


def test_every_attention_of_every_tower_is_told_what_the_config_says(tiny):
    """One that is not would do as it likes: 'auto' is the default of a layer."""
    bert = BertConfig(vocab_size=20, context_length=6, width=16, depth=1, num_heads=2, mlp_dim=24)
    modern = ModernTextConfig(
        vocab_size=20, context_length=6, width=16, depth=1, num_heads=2, mlp_dim=24
    )
    sizes = {"depth": 1, "width": 16, "num_heads": 2, "mlp_dim": 24}
    coca = tiny.vit(depth=1, pool="coca", pooler_heads=2, pooler_queries=3)
    cases = [
        (tiny.model(tiny.vit(depth=1, pool="map"), bert), 3),
        (tiny.model(tiny.eva(depth=1), modern), 2),
        (tiny.model(tiny.resnet(), tiny.text(depth=1)), 2),
        (tiny.model(coca, tiny.text(depth=1), embed_dim=16, decoder=CocaDecoderConfig(**sizes)), 5),
        (
            tiny.model(
                tiny.vit(depth=1),
                tiny.text(depth=1),
                decoder=CappaDecoderConfig(vocab_size=20, context_length=6, **sizes),
            ),
            4,
        ),
    ]
    for config, count in cases:
        model = abstract_model(half(config, attention="xla"))
        found = [
            module.implementation
            for _, module in nnx.iter_modules(model)
            if hasattr(module, "implementation")
        ]
        # ViT and text: one a block; a decoder's block has two, a pooler one.
        assert found == ["xla"] * count


def test_cudnn_on_a_cpu_is_refused_before_anything_is_compiled(tiny):
    config = tiny.model()
    model = with_params(half(config, attention="cudnn"), tiny.params(config))
    with pytest.raises(UsageError, match="NVIDIA GPU, not cpu"):
        model.encode_image(jnp.asarray(tiny.images(count=1)))


def test_cudnn_in_float32_is_refused_by_the_config():
    with pytest.raises(ValueError, match=r"attention='cudnn' with dtype='float32'"):
        ComputeConfig(attention="cudnn")
