"""Which file it is, by what is in it."""

import io
import json
import zipfile

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.interchange.npz_file import write_npz
from clipjax.interchange.safetensors_file import write_safetensors
from clipjax.interchange.weights_file import open_tensors, read_json


def safetensors(path, **tensors):
    specs = {name: (array.shape, array.dtype) for name, array in tensors.items()}
    write_safetensors(path, specs, tensors.items())
    return path


A, B = np.arange(3, dtype=np.float32), np.ones((2, 2), np.float32)


def test_a_file_is_opened_by_its_content_and_not_by_its_name(tmp_path):
    safetensors(tmp_path / "one.npz", a=A)
    write_npz(tmp_path / "two.safetensors", [("a", A)])
    for name in ("one.npz", "two.safetensors"):
        found = open_tensors(tmp_path / name)
        assert found.shapes() == {"a": (3,)}
        np.testing.assert_array_equal(found.read("a"), A)


def zipped(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"\x80\x02}q\x00.")
    return out.getvalue()


def named(value):
    """The id of a parameter; a zip holds the time, and processes must agree on their tests."""
    return value if isinstance(value, str) else f"{len(value)} bytes"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.pt", zipped("model/data.pkl", "model/data/0")),
        ("model.safetensors", zipped("archive/data.pkl", "archive/version")),
        ("model.npz", zipped("data.pkl")),
        ("model.bin", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."),
        ("weights", b"\x80\x04\x95\x00"),
        ("model.ckpt", b"anything at all"),
        ("model.pth", zipped("a")[:30]),
        ("empty.bin", b""),
    ],
    ids=named,
)
def test_pickles_are_refused_unread_with_the_way_out(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match="is a pickle, which runs code") as raised:
        open_tensors(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert f"torch.load('{name}', map_location='cpu', weights_only=True)" in message


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 60, "is an HDF5 file"),
        (b"GGUF\3\0\0\0", "is a GGUF file"),
        (b"<!doctype html><html>", "is a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        (b"", "is cut off"),
        (b"\xff" * 100, "no safetensors file"),
    ],
    ids=named,
)
def test_other_files_are_named(tmp_path, content, what):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=what):
        open_tensors(tmp_path / "model.safetensors")


def test_what_is_no_file_is_said(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        open_tensors(tmp_path / "nowhere.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        open_tensors(tmp_path)


class TestShards:
    @pytest.fixture
    def index(self, tmp_path):
        safetensors(tmp_path / "model-1-of-2.safetensors", a=A)
        safetensors(tmp_path / "model-2-of-2.safetensors", b=B)
        return self.write(
            tmp_path, {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
        )

    def write(self, folder, weight_map):
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return path

    def test_are_read_as_one(self, index):
        found = open_tensors(index)
        assert found.shapes() == {"a": (3,), "b": (2, 2)}
        np.testing.assert_array_equal(found.read("b"), B)
        assert found.dtypes() == {"F32"}

    def test_that_are_missing_or_cut_off_are_named(self, index, tmp_path):
        path = tmp_path / "model-2-of-2.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(UserError, match=r"model-2-of-2.*cut off"):
            open_tensors(index)
        path.unlink()
        with pytest.raises(UserError, match=r"model-2-of-2.*cannot be read"):
            open_tensors(index)

    def test_must_hold_what_the_index_says(self, index, tmp_path):
        self.write(tmp_path, {"a": "model-2-of-2.safetensors"})
        with pytest.raises(UserError, match="'a' is not in model-2-of-2"):
            open_tensors(index)
        self.write(tmp_path, {"a": "model-1-of-2.safetensors"})
        safetensors(tmp_path / "model-1-of-2.safetensors", a=A, c=B)
        with pytest.raises(UserError, match="the files hold 'c', the index does not"):
            open_tensors(index)

    def test_must_stand_beside_it(self, index, tmp_path):
        for file in ("../model-1-of-2.safetensors", "/etc/passwd", "x/y.safetensors", "a.txt"):
            self.write(tmp_path, {"a": file})
            with pytest.raises(UserError, match="expected safetensors files beside it"):
                open_tensors(index)

    def test_that_are_pickles_are_refused(self, index, tmp_path):
        self.write(tmp_path, {"a": "pytorch_model-00001-of-00002.bin"})
        with pytest.raises(UserError, match="is a pickle"):
            open_tensors(index)

    @pytest.mark.parametrize(
        "content",
        ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}'],
    )
    def test_need_an_index(self, index, content):
        index.write_text(content)
        with pytest.raises(UserError, match="no index of safetensors"):
            open_tensors(index)


def test_json_that_is_none_is_named(tmp_path):
    for content, why in (("[1]", "expected a JSON object"), ("{", "cannot be read as JSON")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=why):
            read_json(tmp_path / "config.json")
