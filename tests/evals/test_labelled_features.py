"""Features and labels from files, with every mistake told by its file."""

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.evals.labelled_features import LabelledFeatures, check_same_dim, read_labelled


def write(tmp_path, features, labels):
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "labels.npy", labels)
    return str(tmp_path / "features.npy"), str(tmp_path / "labels.npy")


def test_reads_what_was_written(tmp_path):
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float16)
    images = read_labelled(*write(tmp_path, features, np.arange(5, dtype=np.uint8)))
    assert images.features.dtype == np.float32
    assert images.labels.dtype == np.int64
    np.testing.assert_array_equal(images.features, features.astype(np.float32))
    assert len(images) == 5


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones((3, 2)), np.zeros(2, int), "3 rows of features and 2 labels"),
        (np.ones(3), np.zeros(3, int), r"float64 of shape \(3,\); expected floats"),
        (np.ones((3, 2), int), np.zeros(3, int), r"int64 of shape \(3, 2\); expected floats"),
        (np.ones((3, 2)), np.zeros(3), r"labels.npy: float64 of shape \(3,\); expected whole"),
        (np.ones((3, 2)), np.zeros((3, 1), int), r"labels.npy: int64 of shape \(3, 1\)"),
        (np.ones((3, 2)), np.array([0, -1, 2]), "label -1 of row 1; expected"),
        (np.ones((0, 2)), np.zeros(0, int), "no features"),
        (
            np.array([[1, 2], [np.nan, 0], [np.inf, 1]]),
            np.zeros(3, int),
            "2 rows hold NaN .* row 1",
        ),
        (np.full((2, 2), 1e300), np.zeros(2, int), "2 rows hold NaN or inf"),
    ],
)
def test_a_mistake_names_the_file(tmp_path, features, labels, message):
    with pytest.raises(UserError, match=message) as error:
        read_labelled(*write(tmp_path, features, labels))
    assert "features.npy: " in str(error.value) or "labels.npy: " in str(error.value)


def test_files_that_are_none(tmp_path):
    features, labels = write(tmp_path, np.ones((2, 2)), np.zeros(2, int))
    with pytest.raises(UserError, match=r"nowhere.npy: no such file"):
        read_labelled(features, str(tmp_path / "nowhere.npy"))
    for content in (b"", b"0\n1\n", b"\x93NUMPY\x01\x00"):
        (tmp_path / "labels.npy").write_bytes(content)
        with pytest.raises(UserError, match=r"labels.npy: not one array"):
            read_labelled(features, labels)
    np.save(tmp_path / "labels.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"labels.npy: not one array"):
        read_labelled(features, labels)
    np.savez(tmp_path / "both.npz", a=np.zeros(2))
    with pytest.raises(UserError, match=r"both.npz: several arrays"):
        read_labelled(features, str(tmp_path / "both.npz"))


def test_parts_and_unions():
    features = np.array([[0, 0], [1, 0], [0, -0.0], [0, 1]], np.float32)
    images = LabelledFeatures(features, np.arange(4), "a")
    assert images.usable.tolist() == [False, True, False, True]
    both = images.take(images.usable).joined(images.take(np.array([0])))
    assert both.labels.tolist() == [1, 3, 0]
    assert both.where == "a and a"


def test_other_lengths_of_features():
    a = LabelledFeatures(np.ones((1, 2), np.float32), np.zeros(1, int), "a.npy")
    b = LabelledFeatures(np.ones((1, 3), np.float32), np.zeros(1, int), "b.npy")
    check_same_dim(a, a)
    with pytest.raises(UserError, match=r"b.npy: features of length 3, but those of a.npy have 2"):
        check_same_dim(a, b)
