"""The negative control: with captions of other pictures there is nothing to learn."""

import dataclasses
import json

import pytest
from scipy.stats import binom

from clipjax.cli.configs import load_config
from clipjax.config import UserError
from clipjax.core.distributed import Cluster, joined
from clipjax.data.digits import make_digits
from clipjax.data.emoji import make_emoji
from clipjax.train.run import run

pytestmark = pytest.mark.slow

# Of the quickstart; shorter, so that the two runs take less than a minute.
_FLAGS = [
    "--config.num_steps=120",
    "--config.data.global_batch_size=64",
    "--config.log.every_steps=1000",
    "--config.log.tensorboard=False",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Makes the data of a quickstart; returns its folder."""

    def make(kind):
        out = tmp_path_factory.mktemp(kind) / "out"
        try:
            make_emoji(out) if kind == "emoji" else make_digits(out)
        except UserError as error:
            pytest.skip(str(error))
        return out

    return make


def train(config_file, root, workdir, *flags):
    config = load_config(config_file, [f"--config.data.root={root}", *_FLAGS, *flags])
    with joined(Cluster()) as lifeline:
        return run(config, workdir, lifeline)["tasks"]


@pytest.mark.parametrize("kind", ["emoji", "digits"])
def test_with_shuffled_captions_every_score_is_at_chance(kind, data, tmp_path):
    config_file = "configs/quickstart.py" if kind == "emoji" else "configs/quickstart_digits.py"
    root = data(kind)
    shuffled, paired = (
        train(config_file, root, tmp_path / str(flag), f"--config.data.shuffled_captions={flag}")
        for flag in (True, False)
    )
    print(json.dumps(shuffled), json.dumps(paired))
