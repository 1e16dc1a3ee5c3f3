"""torch, open_clip and transformers as fixtures, and the references that they recompute.

CLIPJAX_UPDATE_REFERENCES=1 bash launch/test.sh --parity    rewrites tests/golden/*.npz
"""

import os
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
UPDATE = os.environ.get("CLIPJAX_UPDATE_REFERENCES") == "1"
MOST_BYTES = 200_000


@pytest.fixture(scope="session")
def torch():
    """The package torch; torchvision can be imported after it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a foreign package warns of while it is imported
        import torch

        script = runpy.run_path(str(ROOT / "clipjax" / "cli" / "rivals" / "open_clip_step.py"))
        script["import_torchvision"](torch)
    return torch


@pytest.fixture(scope="session")
def open_clip(torch):
    """The package open_clip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import open_clip
    return open_clip


@pytest.fixture(scope="session")
def transformers(torch):
    """The package transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
        from transformers import CLIPModel, SiglipModel  # noqa: F401 (lazy: imported here for real)
    return transformers


@pytest.fixture(scope="session")
def reference():
    """Compares what was recomputed with tests/golden/NAME.npz, or rewrites the file."""

    def check(name, arrays):
        path = ROOT / "tests" / "golden" / f"{name}.npz"
        arrays = {key: np.asarray(value) for key, value in arrays.items()}
        if UPDATE:
            np.savez_compressed(path, **arrays)
            assert path.stat().st_size < MOST_BYTES
        with np.load(path) as stored:
            assert set(stored.files) == set(arrays)
            for key, value in arrays.items():
                assert stored[key].dtype == value.dtype, key
                if value.dtype == np.float64:
                    # Sums in another order, by another build of torch; nothing else may change.
                    np.testing.assert_allclose(value, stored[key], 1e-9, 1e-12, err_msg=key)
                else:
                    np.testing.assert_array_equal(value, stored[key], err_msg=key)

    return check
