"""What a run says before it begins."""

import dataclasses

import pytest

from clipjax.config import MixtureConfig
from clipjax.core.distributed import Cluster, joined
from clipjax.train.run import run


@pytest.mark.slow
def test_a_mixture_is_forecast_before_the_first_step(tiny_config, tmp_path, capsys):
    mixture = {
        "one": MixtureConfig(shards="train/00000.tar", weight=3.0),
        "two": MixtureConfig(shards="train/00001.tar", replacement=True),
    }
    config = dataclasses.replace(
        tiny_config,
        num_steps=4,
        data=dataclasses.replace(tiny_config.data, shards="", mixture=mixture),
        evals=dataclasses.replace(tiny_config.evals, tasks={}),
    )
    with joined(Cluster()) as lifeline:
        run(config, tmp_path, lifeline)
    lines = capsys.readouterr().err.splitlines()
    first = next(i for i, line in enumerate(lines) if " 64 pairs, batch 16, 4 steps" in line)
    assert lines[first + 1 : first + 3] == [
        "source one  32 samples, 75.0 % of a batch, 1.50 epochs in 4 steps",
        "source two  32 samples, 25.0 % of a batch, each drawn 0.50 times on average in 4 steps",
    ]
    assert any(line.startswith("step 4/4") for line in lines[first + 3 :])
