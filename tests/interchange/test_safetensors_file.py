"""Safetensors, against the package of that name, and damaged in every way."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import UserError
from clipjax.interchange.safetensors_file import (
    SafetensorsFile,
    from_bfloat16,
    write_safetensors,
)

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "scale": np.array(1.5, np.float32),
    "ids": np.arange(5, dtype=np.int64)[None],
    "empty": np.zeros((0, 3), np.float32),
    "flag": np.array([True, False]),
}


def write(path, tensors=TENSORS, **options):
    specs = {name: (array.shape, array.dtype) for name, array in tensors.items()}
    write_safetensors(path, specs, tensors.items(), **options)
    return path


def equal(found, tensors=TENSORS):
    assert found.shapes() == {name: array.shape for name, array in tensors.items()}
    for name, array in tensors.items():
        read = found.read(name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_what_is_written_is_read(tmp_path):
    found = SafetensorsFile(write(tmp_path / "w.safetensors", metadata={"format": "pt"}))
    equal(found)
    assert found.metadata == {"format": "pt"}
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_package_reads_what_is_written(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    path = write(tmp_path / "w.safetensors", metadata={"format": "pt"})
    for name, array in numpy.load_file(path).items():
        np.testing.assert_array_equal(array, TENSORS[name])
        assert array.dtype == TENSORS[name].dtype
        assert array.shape == TENSORS[name].shape


def test_what_the_package_writes_is_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    kinds = [
        np.dtype(kind) for kind in ("f8", "f4", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
    ]
    tensors = {str(kind): np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    numpy.save_file(tensors, tmp_path / "w.safetensors")
    equal(
        SafetensorsFile(tmp_path / "w.safetensors"),
        {n: tensors[n] for n in SafetensorsFile(tmp_path / "w.safetensors").shapes()},
    )


def test_numbers_of_16_bits_become_float32(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    numpy = pytest.importorskip("safetensors.numpy")
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    half, brain = values.astype(np.float16), values.astype(ml_dtypes.bfloat16)
    numpy.save_file({"half": half, "brain": brain}, tmp_path / "w.safetensors")
    found = SafetensorsFile(tmp_path / "w.safetensors")
    assert found.dtypes() == {"F16", "BF16"}
    for name, array in (("half", half), ("brain", brain)):
        assert found.read(name).dtype == np.float32
        np.testing.assert_array_equal(found.read(name), array.astype(np.float32))


def test_every_bfloat16_is_the_number_that_it_is():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bits = np.arange(2**16, dtype=np.uint16)
    np.testing.assert_array_equal(
        from_bfloat16(bits), bits.view(ml_dtypes.bfloat16).astype(np.float32)
    )


def test_a_tensor_is_a_view_that_cannot_be_written_to(tmp_path):
    read = SafetensorsFile(write(tmp_path / "w.safetensors")).read("a.weight")
    assert not read.flags.owndata
    assert not read.flags.writeable


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "w.safetensors").read_bytes()


def problem(folder, content):
    path = folder / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        SafetensorsFile(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_a_file_cut_off_anywhere_is_refused(tmp_path, content):
    for length in range(len(content)):
        message = problem(tmp_path, content[:length])
        assert "cut off" in message, length


def test_a_file_with_more_behind_it_is_refused(tmp_path, content):
    assert "1 bytes follow the last tensor" in problem(tmp_path, content + b"x")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_header_is_refused_or_says_what_it_did(tmp_path_factory, content, data):
    """Whatever the bytes are, nothing but UserError comes out, and no tensor leaves the file."""
    end = 8 + int.from_bytes(content[:8], "little")
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(damaged)
    try:
        found = SafetensorsFile(path)
    except UserError:
        return
    for name, shape in found.shapes().items():
        assert found.read(name).shape == shape


def with_header(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"[1, 2]", "no JSON object"),
        (b"{nothing", "no JSON object"),
        (b"[" * 5000, "no JSON object"),
        ({"a": 3}, "entry of 'a' is damaged"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "entry of 'a' is damaged"),
        ({"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 8]}}, "entry of 'a'"),
        ({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, "type 'F8_E4M3'"),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "takes 12 bytes"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "shape \\[-2\\]"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "begins at byte 4"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, "begins at byte -4"),
        (
            {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("a", "b")},
            "'b' begins at byte 0",
        ),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "cut off: 8 bytes"),
        ({"__metadata__": 3}, "__metadata__"),
    ],
)
def test_a_wrong_header_is_named(tmp_path, header, why):
    path = tmp_path / "w.safetensors"
    path.write_bytes(with_header(header))
    with pytest.raises(UserError, match=why):
        SafetensorsFile(path)


def test_a_header_of_terabytes_is_not_read(tmp_path):
    assert "no safetensors file" in problem(tmp_path, (1 << 40).to_bytes(8, "little") + b"{}")


def test_tensors_that_end_early_leave_the_file_that_was_there(tmp_path):
    path = write(tmp_path / "w.safetensors")
    before = path.read_bytes()

    def each():
        yield "a", np.zeros(2, np.float32)
        raise KeyError("b")

    specs = {name: ((2,), np.dtype(np.float32)) for name in ("a", "b")}
    with pytest.raises(KeyError):
        write_safetensors(path, specs, each())
    with pytest.raises(AssertionError):
        write_safetensors(path, specs, [("a", np.zeros(3, np.float32))])
    with pytest.raises(AssertionError, match="fewer"):
        write_safetensors(path, specs, [("a", np.zeros(2, np.float32))])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
