"""Models of the world of emoji, trained once for all workers of a run of the tests."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EMOJI_STEPS = 500  # of the recipe's, so that all tests together wait for a minute


@pytest.fixture(scope="session")
def train_emoji(tmp_path_factory):
    """Trains the recipe for the shared number of steps; `train_emoji(name, *overrides)`.

    Programs are compiled with care here, unlike in other tests: it is the steps that take time.
    """
    from clipjax.data.world_shards import make_emoji_world

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def train(name, *overrides):
        folder = shared / "emoji-models"
        folder.mkdir(exist_ok=True)
        command = [
            sys.executable,
            *("-m", "clipjax.cli.main", "train", "--config=configs/emoji_neurons.py"),
            f"--workdir={folder / name}",
            f"--config.data.root={folder / 'world'}",
            f"--config.num_steps={EMOJI_STEPS}",
            *overrides,
        ]
        env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers wait, and find it done
            make_emoji_world(folder / "world")
            done = subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False
            )
        assert done.returncode == 0, done.stderr[-2000:]
        return folder / name

    return train


@pytest.fixture(scope="session")
def emoji_workdir(train_emoji):
    """Folder of a run of configs/emoji_neurons.py, shorter than the recipe."""
    return train_emoji("words")


@pytest.fixture(scope="session")
def emoji_model(emoji_workdir):
    """A model that sees, reads and understands 24 concepts: a `clipjax.inference.load.Model`."""
    from clipjax.inference.load import load

    return load(emoji_workdir)


@pytest.fixture(scope="session")
def no_words_model(train_emoji):
    """A model that was trained as `emoji_model`, without pictures of words."""
    from clipjax.inference.load import load

    return load(train_emoji("no-words", "--config.data.shards=photo/*.tar edges/*.tar"))
