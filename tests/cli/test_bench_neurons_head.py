"""The benchmark of heads, but for the training: what it trains, how curves and bars are read."""

import json

import pytest

from clipjax.cli.bench_neurons_head import (
    CURVES,
    DENSE_BAR,
    SPARSE_BAR,
    configure,
    model_config,
    passes,
    rises,
    table,
)
from clipjax.cli.configs import load_config
from clipjax.cli.parser import Parser
from clipjax.config import UsageError


def test_models_differ_in_what_is_compared_only(tmp_path):
    base = load_config("configs/emoji_neurons.py:captions", [])
    dense, sparse, shuffled = (
        model_config(base, tmp_path, name, 1, width=96, steps=60)
        for name in ("linear", "sparse_relu", "shuffled")
    )
    assert (dense.model.head.kind, sparse.model.head.kind) == ("linear", "sparse_relu")
    assert dense.model.embed_dim == sparse.model.embed_dim == 96
    assert not sparse.data.shuffled_captions
    assert shuffled.data.shuffled_captions
    assert shuffled.model == sparse.model
    assert {c.num_steps for c in (dense, sparse, shuffled)} == {60}
    assert sparse.neurons.every_steps == 10
    assert "word" not in sparse.data.shards


def test_curves_are_correlated_with_the_steps(tmp_path):
    """The untrained model is no point of the curve; what never moves has no correlation."""
    values = {0: 9.0, 10: 1.0, 20: 2.0, 30: 4.0, 40: 3.0}
    lines = [{"step": 15, "train/loss": 1.0}]
    for step, value in values.items():
        ratio, flat = f"neurons/{CURVES[0]}", f"neurons/{CURVES[1]}"
        lines.append({"step": step, ratio: value, flat: 0.0})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    found = rises(tmp_path)
    assert found[CURVES[0]] == pytest.approx(0.8)  # 1 - 6 x 2 / (4 x 15)
    assert found[CURVES[1]] is None
    assert set(found) == set(CURVES)


@pytest.mark.parametrize(
    ("model", "ratio", "passed"),
    [
        ("linear", 1 + DENSE_BAR - 0.01, True),
        ("linear", 1 - DENSE_BAR - 0.01, False),
        ("linear", SPARSE_BAR, False),
        ("sparse_relu", SPARSE_BAR, True),
        ("sparse_relu", SPARSE_BAR - 0.01, False),
        ("shuffled", 1.0, True),
    ],
)
def test_bars(model, ratio, passed):
    row = {"model": model, "over_rotation": ratio}
    assert passes(row) == passed
    fields = ("ratio", "median", "most", "rotated", "zero_shot", "recall_1", "recall_10", "active")
    row |= dict.fromkeys(fields, 1.0) | {"live": 7, "seconds": 3.0, "seed": 2, "passed": passed}
    row["rises"] = {"cross_modal_ratio": 0.5, "strict_units": None}
    said = table([row]).splitlines()
    assert said[1].startswith(f"{model} 2")
    assert (" !" in said[1]) != passed
    assert said[-1].endswith("cross modal ratio 0.50, strict units flat")


def test_seeds_are_numbers():
    parser = Parser()
    configure(parser)
    with pytest.raises(UsageError, match="--seeds a,b: wanted whole numbers"):
        parser.parse_args(["--seeds", "a,b"])
