"""A sparse head goes along where the format is ours, and is refused elsewhere."""

import dataclasses

import numpy as np
import pytest

from clipjax.config import HeadConfig, UserError
from clipjax.interchange.convert import convert, targets
from clipjax.interchange.open_clip.config import to_open_clip
from clipjax.interchange.pretrained import open_pretrained
from clipjax.interchange.run_directory import write_run


@pytest.fixture
def source(open_clip_folder, tmp_path):
    """A folder of a model with a sparse head."""
    bare = open_pretrained(open_clip_folder(tmp_path / "bare"))
    config = dataclasses.replace(bare.config, head=HeadConfig(kind="sparse_relu"))
    (tmp_path / "source").mkdir()
    write_run(tmp_path / "source", config, bare.params(), bare.tokenizer, {"converted_from": ""})
    return tmp_path / "source"


def test_ours_keeps_it_and_no_other_format_gets_it(source, tmp_path):
    found = open_pretrained(source)
    convert(found, tmp_path / "ours", "clipjax")
    copied = open_pretrained(tmp_path / "ours")
    assert copied.config.head == HeadConfig(kind="sparse_relu")
    for name, array in copied.params().items():
        np.testing.assert_array_equal(array, found.params()[name], err_msg=name)
    others = [to for to in targets() if to != "clipjax"]
    assert len(others) > 3
    for to in others:
        with pytest.raises(UserError, match=rf"{to} cannot hold model\.head\.kind='sparse_relu'"):
            convert(found, tmp_path / to, to)
        assert not (tmp_path / to).exists()
    with pytest.raises(UserError, match=r"no way to say model\.head\.kind='sparse_relu'"):
        to_open_clip(found.config)
