"""Models with heads that no embedding needs: written, read again, and begun from."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from clipjax.config import InitConfig, LoraConfig, MatchingConfig, PrototypeHeadsConfig
from clipjax.core.mesh import make_mesh
from clipjax.interchange.convert import convert
from clipjax.interchange.pretrained import open_pretrained
from clipjax.interchange.run_directory import write_run
from clipjax.models import init_params
from clipjax.train.starting_point import starting_weights

SIZES: Any = {"width": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64}


@pytest.fixture
def source(open_clip_folder, tmp_path):
    """A folder of a model with both heads."""
    bare = open_pretrained(open_clip_folder(tmp_path / "bare"))
    text = bare.config.text
    config = dataclasses.replace(
        bare.config,
        matching=MatchingConfig(
            vocab_size=text.vocab_size, context_length=text.context_length, **SIZES
        ),
        self_distill=PrototypeHeadsConfig(prototypes=50, depth=2, hidden=24, bottleneck=8),
    )
    params = init_params(config, 3) | dict(bare.params())
    (tmp_path / "source").mkdir()
    write_run(tmp_path / "source", config, params, bare.tokenizer, {"converted_from": "clipjax"})
    return tmp_path / "source"


def test_heads_come_along_to_ours_and_stay_behind_elsewhere(source, tmp_path, capsys):
    found = open_pretrained(source)
    convert(found, tmp_path / "ours", "clipjax")
    copied = open_pretrained(tmp_path / "ours")
    assert copied.config == found.config
    expected = found.params()
    assert copied.params().keys() == expected.keys()
    for name, array in copied.params().items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    convert(copied, tmp_path / "theirs", "open_clip")
    assert "no place for model.matching and model.self_distill" in capsys.readouterr().err
    bare = open_pretrained(tmp_path / "theirs").params()
    assert bare.keys() == {n for n in expected if not n.startswith(("matching/", "self_distill/"))}


def test_a_run_begins_at_a_head_of_other_texts(source, tiny_config):
    found = open_pretrained(source)
    length = found.config.text.context_length - 2
    assert found.config.matching is not None
    model = dataclasses.replace(
        found.config,
        text=dataclasses.replace(found.config.text, context_length=length),
        matching=dataclasses.replace(found.config.matching, context_length=length),
    )
    init = InitConfig(from_=str(source), text_positions="truncate")
    config = dataclasses.replace(tiny_config, model=model, init=init)
    mesh = make_mesh(config.mesh, num_devices=1)
    weights = starting_weights(config, mesh)
    old, new = (params["matching/positions"] for params in (found.params(), weights))
    np.testing.assert_array_equal(new, np.concatenate([old[:length], old[-1:]]))


def test_low_rank_updates_alone_do_not_train_the_head(source, tiny_config, replace_in):
    model = open_pretrained(source).config
    config = dataclasses.replace(tiny_config, model=dataclasses.replace(model, self_distill=None))
    config = replace_in(config, "optim.lora", LoraConfig(rank=2))
    with pytest.raises(ValueError, match=r"rank=2 leaves model\.matching as it began"):
        replace_in(config, "loss.matching_weight", 1.0)
    config = replace_in(config, "optim.freeze", ("!matching/*",))
    replace_in(config, "loss.matching_weight", 1.0)
