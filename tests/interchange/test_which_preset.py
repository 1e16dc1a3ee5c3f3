"""Weights of a published model are recognised by names and shapes."""

import pytest

from clipjax.config import PRESETS, UserError, preset
from clipjax.interchange.formats import layout_of
from clipjax.interchange.transfer import unrolled_shapes
from clipjax.interchange.which_preset import fitting_variant, layout_fits


class Shapes:
    """A file of which only names and shapes are asked."""

    source = "weights.safetensors"

    def __init__(self, name, **options):
        config = preset(name)
        ours = unrolled_shapes(config)
        self._shapes = {
            theirs: entry.their_shape(ours[entry.ours])
            for entry in layout_of("open_clip", config, **options).entries
            for theirs in entry.theirs
        }

    def shapes(self):
        return self._shapes

    def read(self, name):
        raise AssertionError("no numbers are needed")


@pytest.mark.parametrize("custom_text", [False, True])
def test_the_right_preset_fits(custom_text):
    tensors = Shapes("ViT-S-32", custom_text=custom_text)
    found = fitting_variant("ViT-S-32", preset("ViT-S-32"), tensors)
    assert found == ("open_clip", {"custom_text": custom_text})


def test_another_preset_is_named_with_what_tells_it():
    tensors = Shapes("ViT-S-16", custom_text=False)
    with pytest.raises(UserError) as raised:
        fitting_variant("ViT-S-32", preset("ViT-S-32"), tensors)
    message = str(raised.value)
    assert message.startswith("weights.safetensors: these weights are ViT-S-16")
    assert "197 positions, expected 50" in message


def test_another_width_is_named_too():
    tensors = Shapes("ViT-M-32", custom_text=False)
    with pytest.raises(UserError, match=r"these weights are ViT-M-32.*: .* expected \["):
        fitting_variant("ViT-S-32", preset("ViT-S-32"), tensors)


def test_a_deeper_model_does_not_fit_though_all_names_are_there(tiny_clip, replace_in):
    deeper = replace_in(tiny_clip, "image.depth", 3)
    ours = unrolled_shapes(deeper)
    layout = layout_of("open_clip", deeper, custom_text=False)
    found = {t: e.their_shape(ours[e.ours]) for e in layout.entries for t in e.theirs}
    assert layout_fits(layout, deeper, found)
    assert layout_fits(layout, deeper, {**found, "attn_mask": (10, 10)})  # may stand there
    assert not layout_fits(layout, deeper, {**found, "more": (1,)})
    shallow = layout_of("open_clip", tiny_clip, custom_text=False)
    assert not layout_fits(shallow, tiny_clip, found)


def test_there_are_presets_to_choose_from():
    assert len(PRESETS) > 20
