"""Memory stays flat however long a run reads."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

_CHILD = """
import json, sys
import numpy as np
from clipjax.config import DataConfig, ViTConfig
from clipjax.data.opening import make_order, open_sources
from clipjax.data.pairs import TrainingPairs
from clipjax.data.pipeline import Batches
from clipjax.data.tokenizers import ByteTokenizer

mode, samples, every = sys.argv[2], int(sys.argv[3]), 2500
config = DataConfig(
    root=sys.argv[1], shards="*.tar", image_mode=mode, global_batch_size=250, canvas_size=96,
    window_shards=2, lanes=1, caption="txt:1 json.captions:1",
)
sources = open_sources(config)
order = make_order(config, sources)
tokenizer = ByteTokenizer(context_length=32, lowercase=True)
pairs = TrainingPairs(
    sources, order, tokenizer, config, image=ViTConfig(image_size=64, patch_size=8)
)
batches = Batches(order.samples, pairs.plan, pairs.row_spec, threads=2)
rows = []
for step in range(1, samples // 250 + 1):
    next(batches)
    if not step * 250 % every:
        with open("/proc/self/statm") as file:
            rows.append((step * 250, int(file.read().split()[1]) * 4096))
batches.close()
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def pool(make_tar, tmp_path_factory):
    """2,000 JPEGs of 64 to 96 pixels in eight shards."""
    folder = tmp_path_factory.mktemp("soak")
    rng = np.random.default_rng(0)
    for shard in range(8):
        samples = {}
        for i in range(250):
            small = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
            size = tuple(rng.integers(64, 97, 2).tolist())
            out = io.BytesIO()
            Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG")
            texts = [f"picture {shard} {i} {n}" for n in range(3)]
            samples[f"{shard}{i:03d}"] = {
                "jpg": out.getvalue(),
                "txt": texts[0].encode(),
                "json": json.dumps({"captions": texts}).encode(),
            }
        make_tar(folder / f"{shard}.tar", samples)
    return folder


def slope(samples, sizes):
    """Returns the least-squares slope and the upper end of its 95 % interval."""
    x, y = np.asarray(samples, np.float64), np.asarray(sizes, np.float64)
    x -= x.mean()
    found = (x @ y) / (x @ x)
    rest = y - y.mean() - found * x
    error = np.sqrt((rest @ rest) / (len(x) - 2) / (x @ x))
    return found, found + 2.05 * error  # Student's t at 0.975 with about 28 degrees of freedom


@pytest.mark.slow
@pytest.mark.serial
def test_memory_does_not_grow_with_the_samples_read(pool, make_child_env):
    """Less than 10 bytes a sample: 1 GB in 100 million. The first 50,000 samples warm up."""
    command = [sys.executable, "-c", _CHILD, str(pool), "fast", "120000"]
    done = subprocess.run(
        command, env=make_child_env(), capture_output=True, text=True, timeout=240, check=True
    )
    rows = json.loads(done.stdout)
    kept = [row for row in rows if row[0] > 50_000]
    growth, bound = slope(*zip(*kept, strict=True))
    assert bound < 10, (growth, bound, rows)


def test_the_slope_of_a_leak_is_found():
    samples = np.arange(50_000, 120_001, 2_500)
    noise = np.random.default_rng(0).normal(0, 5e4, len(samples))
    growth, bound = slope(samples, 5e7 + 40 * samples + noise)
    assert 30 < growth < 50 < bound + 10
    assert growth < bound
