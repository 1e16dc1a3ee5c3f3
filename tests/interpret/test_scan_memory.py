"""What a scan keeps in memory does not grow with the stimuli."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_SCRIPT = """
import json, resource, sys
import numpy as np
sys.path.insert(0, {here!r})
import tiny_scan as tiny
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.scanning import scan
from clipjax.interpret.stimuli import stimuli_of


class Noise:
    def __init__(self, name, count):
        labels = np.zeros((count, 2), bool)
        labels[::3, 0] = labels[::4, 1] = True
        self.rows = FacetRows(
            name=name, tower="image", stimuli=tuple(map(str, range(count))), samples=count,
            texts=("",) * count, labels=labels, confounds=np.zeros((count, 0)),
        )
        self.owner = np.arange(count)

    def fill(self, sample, out):
        out[...] = np.random.default_rng(sample).integers(0, 256, out.shape, np.uint8)

    def text(self, sample):
        raise AssertionError

    def picture(self, row):
        return None


model, peak = tiny.tiny_model(), []
for count in json.loads(sys.argv[2]):
    shown = stimuli_of("noise", [Noise("photo", count), Noise("drawing", count)], tiny.CONCEPTS)
    scan(model, shown, out=sys.argv[1] + str(count), store="none", units=["image/*"], pilot=256)
    peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peak))
"""


def test_ten_times_the_stimuli_take_no_more_memory(tmp_path, make_child_env):
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _SCRIPT.format(here=here),
            f"{tmp_path}/scan-",
            "[2000, 2000, 20000]",
        ],
        env=make_child_env(1),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, before, after = json.loads(done.stdout.splitlines()[-1])
    # Ids and labels of 40,000 stimuli are 10 MiB; all activations kept would be 15 MiB more.
    assert after < 1.05 * before
