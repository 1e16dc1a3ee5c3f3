import pytest

from clipjax.config import EvalsConfig


@pytest.mark.parametrize("field", ["batch_size", "bootstrap_resamples"])
def test_what_would_fail_after_the_training_is_refused_before(field):
    with pytest.raises(ValueError, match=f"{field}=0.*must be positive"):
        EvalsConfig(**{field: 0})
