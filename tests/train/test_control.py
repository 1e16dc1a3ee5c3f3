"""The negative control: with captions of other pictures there is nothing to learn."""

import json

import pytest
from scipy.stats import binom

from clipjax.config import UserError
from clipjax.data.digits import make_digits
from clipjax.data.emoji import make_emoji

pytestmark = pytest.mark.slow

# Runs of the quickstart, shortened to seconds.
_FLAGS = [
    "--config.num_steps=60",
    "--config.data.global_batch_size=64",
    "--config.log.every_steps=1000",
    "--config.checkpoint.every_steps=1000",
    "--config.evals.bootstrap_resamples=100",
]


@pytest.fixture(scope="module")
def train(tmp_path_factory, clipjax_command):
    """Trains a config on its data; returns its scores."""

    def run(config, data, shuffled):
        workdir = tmp_path_factory.mktemp("run")
        done = clipjax_command(
            "train",
            f"--config=configs/{config}.py",
            f"--workdir={workdir}",
            f"--config.data.root={data}",
            f"--config.data.shuffled_captions={shuffled}",
            *_FLAGS,
        )
        assert done.returncode == 0, done.stderr
        return json.loads((workdir / "results.json").read_text())["tasks"]

    return run


def assert_at_chance(scores, distinct):
    """No score is higher than guessing explains, once in 10,000.

    A model that learnt nothing may still prefer some answers, and then right ones come in groups:
    the independent trials are the distinct things to be named (`distinct` by task), and the best
    constant answer names k of them.
    """
    for task, of_task in scores.items():
        for metric, score in of_task.items():
            k = int(metric.rpartition("@")[2]) if "@" in metric else int(metric[3:])
            trials = min(distinct.get(task, score["samples"]), score["samples"])
            chance = max(score["chance"], min(1.0, k / trials))
            limit = binom.ppf(1 - 1e-4, trials, chance) / trials
            assert score["value"] <= limit, (task, metric, score, limit)


def test_with_shuffled_emoji_captions_every_score_is_at_chance(train, tmp_path):
    try:
        make_emoji(tmp_path / "emoji")
    except UserError as error:
        pytest.skip(str(error))
    shuffled, paired = (train("quickstart", tmp_path / "emoji", flag) for flag in (True, False))
    assert set(shuffled) == {"combination", "concept", "style", "groups"}
    assert_at_chance(shuffled, {})
    # It has the power: so short a run finds what there is to be learnt.
    for task in ("combination", "concept"):
        with pytest.raises(AssertionError):
            assert_at_chance({task: paired[task]}, {})


def test_with_shuffled_digit_captions_every_score_is_at_chance(train, tmp_path):
    make_digits(tmp_path / "digits")
    scores = train("quickstart_digits", tmp_path / "digits", True)
    assert set(scores) == {"unseen", "seen", "retrieval"}
    assert_at_chance(scores, {"unseen": 20, "seen": 80, "retrieval": 20})
