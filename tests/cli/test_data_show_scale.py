"""`clipjax data show` at the size of the largest public pools."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from clipjax.config import DataConfig, to_json_dict
from clipjax.data.manifest import make_manifest
from clipjax.data.streams import WindowedShuffle

SHARDS, SAMPLES = 1_300_000, 9_846

# The most memory that it had, in kB: `getrusage` may tell that of the parent.
_SHOW = """
import sys
from clipjax.cli.main import main
try:
    main(sys.argv[1:])
finally:
    with open("/proc/self/status") as file:
        print(next(line for line in file if line.startswith("VmHWM")), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def giant(tmp_path_factory, tiny_config, replace_in):
    """A config over 12.8 billion samples in shards that do not exist."""
    folder = tmp_path_factory.mktemp("giant")
    urls = [f"/nowhere/{shard:07d}.tar" for shard in range(SHARDS)]
    manifest = make_manifest(
        urls, [(SAMPLES, bytes(16))] * SHARDS, [SAMPLES] * SHARDS, ["txt"], {"incomplete": 0}
    )
    manifest.save(folder / "pool", None, {"made_by": "a test"})
    data = DataConfig(
        root=str(folder), shards="pool", window_shards=8, lanes=64, global_batch_size=65_536
    )
    path = folder / "giant.json"
    path.write_text(json.dumps(to_json_dict(replace_in(tiny_config, "data", data))))
    return path


@pytest.mark.slow
@pytest.mark.serial
def test_a_batch_of_a_pool_of_billions_is_shown_at_once(giant, make_child_env):
    command = [sys.executable, "-c", _SHOW, "data", "show", f"--config={giant}"]
    command += ["--step=41235", "--rows=8"]
    started = time.monotonic()
    done = subprocess.run(
        command, env=make_child_env(), capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert time.monotonic() - started < 6  # of one second or two where nothing else runs
    assert int(done.stderr.split()[-2]) << 10 < 1 << 30
    rows, forecast = lines[:8], lines[8]
    stream = WindowedShuffle(np.full(SHARDS, SAMPLES), 0, 64, 8)
    places = 41_234 * 1024 + np.arange(8)
    shards, own = np.divmod(stream.examples(np.zeros(8, np.int64), places), SAMPLES)
    for i, row in enumerate(rows):
        start = f"{i:6}  /nowhere/{shards[i]:07d}.tar: sample {own[i]:,}  "
        assert row.startswith(start), row
        assert f"/nowhere/{shards[i]:07d}.tar: No such file" in row
    assert forecast == "12,799,800,000 samples, 0.00 epochs in 12 steps"
