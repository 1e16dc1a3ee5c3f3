"""A text that is cut behind what decides its embedding has the same embedding."""

import dataclasses

import jax
import numpy as np
import pytest

from clipjax.config import BertConfig, DualEncoderConfig, ModernTextConfig, TextConfig
from clipjax.config.presets import PRESETS, preset
from clipjax.models import param_shapes, with_params
from clipjax.models.text_lengths import deciding_tokens

LENGTH, VOCAB, WIDTH = 6, 20, 16
START, END = 18, 19
SMALL = dict(vocab_size=VOCAB, context_length=LENGTH, width=WIDTH, depth=2, num_heads=2, mlp_dim=24)


def shrunk(text):
    """A text tower of a preset, tiny, with the paddings and ends that it has where they fit."""
    fields = dict(SMALL)
    if isinstance(text, TextConfig):
        fields["end_id"] = None if (text.end_id or 0) >= VOCAB else text.end_id
    if isinstance(text, BertConfig):
        fields["max_positions"] = LENGTH + text.first_position
    return dataclasses.replace(text, **fields)


TOWERS = {
    "coca-exact": TextConfig(**SMALL, pool="class"),
    "coca-shifted": TextConfig(**SMALL, pool="class", class_mask="shifted"),
    "class-seen-by-all": TextConfig(**SMALL, pool="class", causal=False),
    "end-seen-by-all": TextConfig(**SMALL, causal=False),
    "other-end": TextConfig(**SMALL, end_id=3),
    "causal-last": TextConfig(**SMALL, pool="last"),
    "causal-mean": TextConfig(**SMALL, pool="mean"),
    "siglip": TextConfig(**SMALL, causal=False, pool="last"),
    "bert-first": BertConfig(**SMALL, max_positions=6, first_position=0, pad_id=0, pool="first"),
    "roberta-max": BertConfig(**SMALL, max_positions=9, pool="max"),
    "modern-mean": ModernTextConfig(**SMALL),
    "modern-last": ModernTextConfig(**SMALL, pool="last", causal=True),
    "modern-first": ModernTextConfig(**SMALL, pool="first", pad_id=1),
}


def rows_of(text):
    """Texts of every length, without an end, without a word, and with padding inside."""
    pad, end = getattr(text, "pad_id", 0), getattr(text, "eot_id", END)
    rng = np.random.default_rng(0)
    rows = [[START, *rng.integers(4, 18, n - 2), end] for n in range(2, LENGTH + 1)]
    rows += [[], [START, 5, 7], [START, pad, 5, end], [START, 4, 4, 4, 4, 4], [START, end, 5, end]]
    return np.array([[*row, *[pad] * (LENGTH - len(row))] for row in rows], np.int32)


@pytest.fixture(scope="module")
def encoder(tiny):
    """encode(text config, tokens): embeddings by parameters that leave nothing at zero."""

    def encode(text, tokens):
        config = DualEncoderConfig(image=tiny.vit(), text=text, embed_dim=WIDTH)
        rng = np.random.default_rng(1)
        params = {
            name: rng.standard_normal(shape).astype(np.float32) / 2
            for name, shape in sorted(param_shapes(config).items())
        }
        run = jax.jit(lambda params, tokens: with_params(config, params).encode_text(tokens))
        return np.asarray(run(params, tokens))

    return encode


def check(encoder, text):
    tokens = rows_of(text)
    needed, whole = deciding_tokens(text, tokens), encoder(text, tokens)
    assert needed.min() >= 1
    assert needed.max() <= LENGTH
    for length in (3, LENGTH - 1):
        cut = encoder(text, tokens[:, :length])
        enough = needed <= length
        np.testing.assert_allclose(cut[enough], whole[enough], atol=1e-5)
    return tokens, needed, whole


@pytest.mark.parametrize("name", TOWERS)
def test_what_is_behind_does_not_matter(name, encoder):
    check(encoder, TOWERS[name])


def test_no_tower_of_a_preset_needs_what_is_cut_off(encoder):
    """Towers that only differ in size are the same one here."""
    towers = {shrunk(preset(name).text) for name in PRESETS}
    assert len(towers) > 3
    for text in towers - set(TOWERS.values()):
        check(encoder, text)


@pytest.mark.parametrize("name", ["siglip", "causal-last", "causal-mean", "class-seen-by-all"])
def test_towers_that_see_padding_get_whole_rows(name):
    assert (deciding_tokens(TOWERS[name], rows_of(TOWERS[name])) == LENGTH).all()


def test_towers_that_see_padding_would_give_something_else(encoder):
    tokens = rows_of(TOWERS["siglip"])[:1]
    cut, whole = (encoder(TOWERS["siglip"], tokens[:, :n]) for n in (2, LENGTH))
    assert np.abs(cut - whole).max() > 1e-3


@pytest.mark.parametrize("name", ["other-end", "coca-exact", "bert-first", "modern-last"])
def test_the_last_token_that_decides_does_decide(name, encoder):
    """The figure is the least: a text that is cut one token sooner is another one."""
    text = TOWERS[name]
    tokens, needed, whole = check(encoder, text)
    for row in range(LENGTH - 2):  # those of words and an end
        cut = encoder(text, tokens[row : row + 1, : needed[row] - 1])
        assert np.abs(cut - whole[row]).max() > 1e-3
