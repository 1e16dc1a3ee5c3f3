"""What an installed codebase makes of the fixed inputs, in a process of its own."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import clipjax
from clipjax.config import DualEncoderConfig, UserError
from clipjax.interchange.certificate import Outputs, fixed_inputs
from clipjax.interchange.npz_file import write_npz

_SCRIPT = Path(__file__).parent / "rivals" / "embeddings.py"
# format: packages that it needs
_PACKAGES = {"open_clip": ("torch", "open_clip"), "transformers": ("torch", "transformers")}


def installed_outputs(
    directory: Path, format_name: str, config: DualEncoderConfig
) -> Outputs | None:
    """Returns embeddings and logits of the fixed inputs; None if the packages are missing.

    Raises:
        UserError: if the other codebase cannot load the folder.
    """
    needed = _PACKAGES.get(format_name)
    if needed is None or any(importlib.util.find_spec(name) is None for name in needed):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        inputs, results = Path(scratch) / "inputs.npz", Path(scratch) / "outputs.npz"
        write_npz(inputs, fixed_inputs(config).items())
        done = subprocess.run(
            [sys.executable, _SCRIPT, format_name, directory, inputs, results],
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(
                    [str(Path(clipjax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
                ),
                "HF_HUB_OFFLINE": "1",
            },
        )
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise UserError(
                f"{directory.name}: {format_name} cannot load it: "
                f"{said[-1] if said else 'it said nothing'}"
            )
        with np.load(results, allow_pickle=False) as found:
            return dict(found)
