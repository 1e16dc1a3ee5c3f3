"""Reading weights against the plainest reader: seconds and peak anonymous memory."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import clipjax
from clipjax.config import DualEncoderConfig, UserError, preset

_POLL_SECONDS = 0.002


def load_figures(preset_name: str, *, rounds: int, folder: str | None = None) -> dict[str, Any]:
    """Times both, prints the rounds and returns the figures.

    Args:
        preset_name: of the model.
        rounds: timed loads of each, in fresh processes that take turns.
        folder: for the file of weights, which is removed again.

    Raises:
        UserError: if the package safetensors is missing, or this is not Linux.
    """
    if importlib.util.find_spec("safetensors") is None:
        raise UserError("clipjax bench load: needs the package safetensors.")
    if not Path("/proc/self/status").exists():
        raise UserError(
            "clipjax bench load: reads peak memory from /proc, for which it needs Linux."
        )
    config = preset(preset_name)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "open_clip_model.safetensors"
        write_random_weights(path, config)
        rows = []
        for number in range(rounds + 1):  # the first one reads the file into the page cache
            row = {who: _measured(who, preset_name, path) for who in _alternating(number)}
            if number:
                rows.append(row)
                print(
                    f"round {number}: "
                    + ", ".join(
                        f"{who} {r['seconds']:.2f} s, peak {r['peak']:.2f} x the file"
                        for who, r in sorted(row.items())
                    ),
                    flush=True,
                )
        size = path.stat().st_size
    figures = {
        "preset": preset_name,
        "file_bytes": size,
        "ratio": statistics.median(r["ours"]["seconds"] / r["plain"]["seconds"] for r in rows),
        "peak_over_file": max(r["ours"]["peak"] for r in rows),
        "rows": rows,
    }
    print(
        f"{preset_name}, {size / 1e6:,.0f} MB: ratio ours / plain {figures['ratio']:.2f}, peak "
        f"anonymous memory {figures['peak_over_file']:.2f} x the file"
    )
    return figures


def write_random_weights(path: Path, config: DualEncoderConfig) -> None:
    """Writes weights of open_clip's names, drawn from a seeded generator."""
    from clipjax.interchange.convert import tensor_specs
    from clipjax.interchange.formats import layout_of
    from clipjax.interchange.safetensors_file import write_safetensors

    specs = tensor_specs(layout_of("open_clip", config, custom_text=False), config)
    draw = np.random.default_rng(0)
    tensors = (
        (name, draw.standard_normal(shape, dtype=np.float32)) for name, (shape, _) in specs.items()
    )
    write_safetensors(path, specs, tensors)


def _alternating(number: int) -> list[str]:
    return ["ours", "plain"] if number % 2 else ["plain", "ours"]


def _measured(who: str, preset_name: str, path: Path) -> dict[str, float]:
    root = str(Path(clipjax.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "clipjax.cli.bench_load", who, preset_name, str(path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise UserError(f"the process of {who} ended with status {done.returncode}: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def anonymous_bytes() -> int:
    """Returns the anonymous memory of this process: what was allocated, not what was mapped."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def peak_of(work: Callable[[], Any]) -> tuple[float, int]:
    """Returns the seconds that `work` takes and the anonymous memory that it adds at its peak."""
    before = peak = anonymous_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_POLL_SECONDS):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        kept = work()
        seconds = time.perf_counter() - start
        peak = max(peak, anonymous_bytes())
    finally:
        done.set()
        watcher.join()
    del kept
    return seconds, peak - before


def load_ours(path: Path, config: DualEncoderConfig) -> Any:
    """Reads the weights as `clipjax.load` does."""
    import jax

    from clipjax.interchange.formats import layout_of
    from clipjax.interchange.load_weights import load_params
    from clipjax.interchange.weights_file import open_tensors

    layout = layout_of("open_clip", config, custom_text=False)
    return jax.block_until_ready(load_params(layout, config, open_tensors(path)))


def load_plainly(path: Path) -> Any:
    """Reads the weights with the package, and transposes each matrix."""
    from safetensors.numpy import load_file

    arrays = load_file(str(path))
    return {
        name: np.ascontiguousarray(array.T) if array.ndim == 2 else array
        for name, array in arrays.items()
    }


def _worker(who: str, preset_name: str, file: str) -> None:
    path, config = Path(file), preset(preset_name)
    if who == "ours":
        import jax

        import clipjax.interchange.formats
        import clipjax.interchange.load_weights
        import clipjax.interchange.weights_file  # noqa: F401 (neither importing ...

        jax.devices()  # ... nor starting the back end is reading)
        seconds, peak = peak_of(lambda: load_ours(path, config))
    else:
        import safetensors.numpy  # noqa: F401 (likewise)

        seconds, peak = peak_of(lambda: load_plainly(path))
    print(json.dumps({"seconds": seconds, "peak": peak / path.stat().st_size}))


if __name__ == "__main__":
    _worker(*sys.argv[1:])
