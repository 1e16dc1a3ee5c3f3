import numpy as np
import pytest

from clipjax.evals.outcomes import METRICS, Outcome, metrics_of
from clipjax.evals.outcomes.outcome import unusable


def test_an_unknown_kind_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match="'clasification'; kinds are classification, "):
        metrics_of(Outcome(kind="clasification", arrays={}, options={}))
    assert "retrieval" in METRICS


def test_rows_that_say_nothing():
    embeds = np.array([[[1, 0], [0, 0]], [[np.inf, 0], [0, -1]]], np.float32)
    assert unusable(embeds).tolist() == [[False, True], [True, False]]
