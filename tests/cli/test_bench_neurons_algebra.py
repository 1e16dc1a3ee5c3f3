"""The benchmarks of the lab's shortcuts: what they compare is the same thing twice."""

import json

import numpy as np
import pytest

from clipjax.cli.bench_neurons_monosemanticity import by_pairs, by_products
from clipjax.cli.bench_neurons_textspan import reference
from clipjax.cli.main import main


def bench(tmp_path, *flags):
    path = tmp_path / "figures.json"
    with pytest.raises(SystemExit) as ended:
        main(["bench", "neurons", *flags, f"--json={path}"])
    return ended.value.code, json.loads(path.read_text()) if path.exists() else None


def test_texts_by_moments_are_those_of_the_reference(tmp_path):
    sizes = ["--images=600", "--texts=80", "--dim=24", "--rank=20", "--picks=6", "--rounds=2"]
    code, found = bench(tmp_path, "textspan", *sizes)
    assert code == 0
    assert found["identical"]
    assert [row["round"] for row in found["rows"]] == [1, 2]
    assert found["ratio"] > 0


def test_the_reference_takes_the_text_with_the_most_variance():
    texts = np.eye(5, dtype=np.float32)
    outputs = np.random.default_rng(0).normal(size=(2000, 5)) * [1, 4, 2, 0.1, 3]
    assert reference(outputs.astype(np.float32), texts, 4, 5) == [1, 4, 2, 0]


def test_monosemanticity_in_one_pass_is_that_of_all_pairs(tmp_path):
    code, found = bench(tmp_path, "monosemanticity", "--stimuli=90", "--units=7", "--dim=9")
    assert code == 0
    assert found["error"] < 1e-9
    rng = np.random.default_rng(0)
    activations, embeds = rng.random((40, 5)), rng.normal(size=(40, 6))
    np.testing.assert_allclose(by_pairs(activations, embeds), by_products(activations, embeds))


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["textspan", "--picks=90"], "--picks=90 is more than"),
        (["textspan", "--images=0"], "--images=0 is not positive"),
        (["monosemanticity", "--stimuli=1"], "--stimuli=1 is too few"),
    ],
)
def test_sizes_that_cannot_be_are_errors(tmp_path, capsys, flags, why):
    assert bench(tmp_path, *flags) == (2, None)
    assert why in capsys.readouterr().err
