"""Two configs that give the same embeddings, and two that do not."""

import pytest

from clipjax.interchange.same_model import model_differences, model_facts


def differing(one, other):
    return model_differences(model_facts(one), model_facts(other))


def test_what_only_training_looks_at_does_not_count(tiny_clip, replace_in):
    for field, value in (
        ("init_logit_scale", 3.0),
        ("image.patch_dropout", 0.5),
        ("compute.dtype", "bfloat16"),
        ("compute.scan_layers", True),
        ("text.end_id", 257),  # what it is anyway
        ("text.pad_id", 7),  # this tower does not look at it
        ("image.pooler_heads", 4),
    ):
        assert differing(replace_in(tiny_clip, field, value), tiny_clip) == {}, field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image.activation", "gelu"),
        ("text.activation", "gelu_tanh"),
        ("image.norm_eps", 1e-6),
        ("text.end_id", 5),
        ("resize", "squash"),
        ("interpolation", "bilinear"),
        ("pixel_mean", (0.5, 0.5, 0.5)),
        ("pixel_std", (0.5, 0.5, 0.5)),
        ("image.depth", 3),
        ("image.pool", "mean"),
        ("embed_dim", 16),
    ],
)
def test_everything_else_does(tiny_clip, replace_in, field, value):
    other = replace_in(tiny_clip, field, value)
    found = differing(other, tiny_clip)
    assert field in found
    was = list(value) if isinstance(value, tuple) else value
    assert found[field][0] == was
    assert differing(tiny_clip, other).keys() == found.keys()


def test_whether_there_is_a_bias_counts_and_not_where_it_began(tiny_clip, replace_in):
    ten, five = (replace_in(tiny_clip, "init_logit_bias", b) for b in (-10.0, -5.0))
    assert differing(ten, five) == {}
    assert differing(ten, tiny_clip) == {"init_logit_bias": ("present", None)}
