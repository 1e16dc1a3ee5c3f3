"""NumPy's .npz, member by member."""

import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import UserError
from clipjax.interchange.npz_file import NpzFile, write_npz

ARRAYS = {
    "img/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "t": np.array(2.5, np.float32),
    "step": np.array([7], np.int64),
}


def test_numpy_reads_what_is_written(tmp_path):
    write_npz(tmp_path / "w.npz", ARRAYS.items())
    with np.load(tmp_path / "w.npz", allow_pickle=False) as found:
        assert set(found.files) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path, save):
    save(tmp_path / "w.npz", **ARRAYS)
    found = NpzFile(tmp_path / "w.npz")
    assert found.shapes() == {name: array.shape for name, array in ARRAYS.items()}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.read(name), array)
    found.close()


def test_equal_arrays_are_equal_files(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, ARRAYS.items())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_numbers_of_16_bits_become_float32(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.linspace(-3, 3, 50, dtype=np.float32).reshape(5, 10)
    brain = values.astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "w.npz", half=values.astype(np.float16), brain=brain.view("V2"))
    found = NpzFile(tmp_path / "w.npz")
    np.testing.assert_array_equal(found.read("brain"), brain.astype(np.float32))
    np.testing.assert_array_equal(found.read("half"), values.astype(np.float16).astype(np.float32))
    found.close()


def test_arrays_of_objects_are_refused_and_no_code_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    objects = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "w.npz", plain=np.zeros(2), trap=objects)
    with pytest.raises(UserError, match="'trap' holds Python objects"):
        NpzFile(tmp_path / "w.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "w.npz"
    write_npz(path, ARRAYS.items())
    return path.read_bytes()


def test_a_file_cut_off_anywhere_is_refused(tmp_path, content):
    path = tmp_path / "w.npz"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="cut off or damaged"):
            NpzFile(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_the_damage_nothing_but_an_error_for_people_comes_out(
    tmp_path_factory, content, data
):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(damaged)
    try:
        found = NpzFile(path)
    except UserError:
        return
    for name in found.shapes():
        try:
            found.read(name)
        except UserError:
            continue
    found.close()


@pytest.mark.parametrize(("place", "bit"), [(8, 0x01), (8, 0x20), (10, 0x7F)])
def test_a_member_that_says_it_is_encrypted_or_packed_otherwise_is_damaged(
    tmp_path, content, place, bit
):
    """Flags, and the way of packing, in the directory at the end of the file."""
    spoilt = bytearray(content)
    spoilt[content.index(b"PK\x01\x02") + place] |= bit
    (tmp_path / "w.npz").write_bytes(spoilt)
    with pytest.raises(UserError, match="cut off or damaged"):
        NpzFile(tmp_path / "w.npz")


def test_damaged_numbers_are_named(tmp_path):
    write_npz(tmp_path / "w.npz", [("img/kernel", np.ones(10_000, np.float32))])
    spoilt = bytearray((tmp_path / "w.npz").read_bytes())
    spoilt[20_000] ^= 1
    (tmp_path / "w.npz").write_bytes(spoilt)
    found = NpzFile(tmp_path / "w.npz")
    with pytest.raises(UserError, match="'img/kernel' of it cannot be read"):
        found.read("img/kernel")
    found.close()


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"readme\.txt is no \.npy array"):
        NpzFile(tmp_path / "w.npz")


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def each():
        yield "a", np.zeros(2)
        raise KeyError("b")

    with pytest.raises(KeyError):
        write_npz(tmp_path / "w.npz", each())
    assert not list(tmp_path.iterdir())
