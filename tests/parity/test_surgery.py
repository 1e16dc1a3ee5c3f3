"""Resampled positions against the functions that open_clip resizes them with."""

import types

import numpy as np
import pytest

pytestmark = pytest.mark.parity

GRIDS = [(7, 12), (12, 7), (3, 4), (4, 3), (5, 1), (2, 6)]
LENGTHS = [(10, 16), (16, 10), (9, 77), (5, 5)]
WIDTH = 5


def test_stored_positions_are_those_of_open_clip(torch, open_clip, reference):
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    rng, arrays = np.random.RandomState(0), {}
    for old, new in GRIDS:
        table = rng.randn(old**2 + 1, WIDTH).astype(np.float32)
        state = {"visual.positional_embedding": torch.from_numpy(table)}
        visual = types.SimpleNamespace(grid_size=(new, new))
        resize_pos_embed(state, types.SimpleNamespace(visual=visual))
        arrays[f"grid/{old}/{new}/before"] = table
        arrays[f"grid/{old}/{new}/after"] = np.float64(state["visual.positional_embedding"])
    for old, new in LENGTHS:
        table = rng.randn(old, WIDTH).astype(np.float32)
        state = {"positional_embedding": torch.from_numpy(table)}
        model = types.SimpleNamespace(positional_embedding=np.zeros((new, WIDTH)))
        resize_text_pos_embed(state, model)
        arrays[f"text/{old}/{new}/before"] = table
        arrays[f"text/{old}/{new}/after"] = np.float64(state["positional_embedding"])
    reference("resized_positions", arrays)
