import json

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.evals.evaluation_folder import read_evaluation
from clipjax.evals.records import FORMAT

RECORD = {
    "task": "wds/cars",
    "kind": "classification",
    "main_metric": "acc1",
    "data_sha256": "d",
    "metrics": {},
    "options": {"num_classes": 3},
}


@pytest.fixture
def folder(tmp_path):
    """An evaluation of one task, wds/cars."""
    (tmp_path / "tasks").mkdir()
    results = {
        "format": FORMAT,
        "model": {"name": "m"},
        "tasks": {"wds/cars": RECORD},
        "failed": {"wds/dogs": "no"},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    label, keys = np.array([2, 0]), np.array(["a", "b"])
    np.savez(tmp_path / "tasks" / "wds-cars.npz", label=label, keys=keys)
    return tmp_path


def test_what_was_written_is_read(folder):
    found = read_evaluation(folder)
    assert found.path == folder
    assert found.model == {"name": "m"}
    assert found.tasks == {"wds/cars": RECORD}
    assert found.failed == {"wds/dogs": "no"}
    outcome, keys = found.outcome("wds/cars")
    assert outcome.kind == "classification"
    assert outcome.options == {"num_classes": 3}
    assert outcome.arrays.keys() == {"label"}
    assert outcome.arrays["label"].tolist() == [2, 0]
    assert keys == ["a", "b"]
    assert read_evaluation(str(folder)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"results\.json cannot be read"),
        ("\xff", r"results\.json cannot be read"),
        ("[1]", r"results\.json: of another version"),
        ('{"format": 1}', r"results\.json: has no tasks"),
        ('{"format": 1, "tasks": 3}', r"results\.json: has no tasks"),
        ('{"format": 1, "tasks": {"x": 3}}', "task 'x' has no task"),
        (
            json.dumps({"format": 1, "tasks": {"x": RECORD, "y": {"task": "y", "kind": "k"}}}),
            "task 'y' has no main_metric. Evaluate it again",
        ),
    ],
)
def test_damaged_results_are_an_error(folder, text, message):
    (folder / "results.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        read_evaluation(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["tasks", "nowhere", "results.json"])
def test_what_is_no_evaluation_is_an_error(folder, name):
    with pytest.raises(UserError, match=f"{name}: no evaluation: results.json cannot be read"):
        read_evaluation(folder / name)


@pytest.mark.parametrize(
    "damage", ["missing", "cut", "text", "empty", "no keys", "objects", "array"]
)
def test_damaged_samples_are_an_error(folder, damage):
    path = folder / "tasks" / "wds-cars.npz"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage in ("text", "empty"):
        path.write_text("not a zip" * (damage == "text"))
    elif damage == "no keys":
        np.savez(path, label=np.array([1]))
    elif damage == "objects":
        np.savez(path, keys=np.array([{}], dtype=object))
    else:
        with open(path, "wb") as file:
            np.save(file, np.arange(3))
    with pytest.raises(UserError, match=r"wds-cars\.npz: .*again") as error:
        read_evaluation(folder).outcome("wds/cars")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_bits_that_flipped_are_an_error_or_change_nothing(folder, save):
    path = folder / "tasks" / "wds-cars.npz"
    expected = np.arange(1000) ** 2
    save(path, keys=expected)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    errors = 0
    for at in rng.choice(len(whole), 60, replace=False):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            _, keys = read_evaluation(folder).outcome("wds/cars")
        except UserError:
            errors += 1
        else:
            assert keys == [str(key) for key in expected]
    assert errors > 30
