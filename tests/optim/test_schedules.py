import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import OptimConfig
from clipjax.optim import learning_rate


@st.composite
def schedules(draw):
    """A schedule of 1 to 60 steps, and where it is to end."""
    kind = draw(st.sampled_from(["cosine", "constant", "linear", "rsqrt", "wsd"]))
    warmup, middle = draw(st.integers(0, 20)), draw(st.integers(1, 20))
    cooldown = {"wsd": draw(st.integers(1, 20)), "rsqrt": draw(st.integers(0, 20))}.get(kind, 0)
    falls = kind in ("cosine", "linear") or cooldown
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) if falls else 0.0
    timescale = draw(st.sampled_from([1, 10, 1000]))
    config = OptimConfig(
        peak_learning_rate=2.0,
        schedule=kind,
        warmup_steps=warmup,
        cooldown_steps=cooldown,
        final_share=share,
        timescale_steps=timescale,
    )
    end = share if falls else 1.0
    if kind == "rsqrt":
        end = (share if cooldown else 1.0) * np.sqrt(timescale / (middle + timescale))
    return config, warmup + middle + cooldown, 2.0 * end


@settings(deadline=None, max_examples=60)
@given(schedules())
def test_every_schedule_rises_then_falls_without_jumps_to_its_end(case):
    config, num_steps, end = case
    schedule, warmup = learning_rate(config, num_steps), config.warmup_steps
    found = np.broadcast_to(np.array(schedule(np.arange(70)), np.float64), 70)[: num_steps + 10]
    assert found.min() >= 0
    assert found.max() <= 2.0 * (1 + 1e-6)
    np.testing.assert_allclose(found[max(warmup - 1, 0)], 2.0, rtol=1e-6)
    assert np.all(np.diff(found[:warmup]) > 0)
    assert np.all(np.diff(found[warmup:]) < 1e-6)
    np.testing.assert_allclose(found[num_steps], end, atol=1e-6)
    if config.schedule != "rsqrt" or config.cooldown_steps:
        np.testing.assert_allclose(found[num_steps:], end, atol=1e-6)
    # No step falls by more than the steepest of these curves does: pi/2 of a line, or the first
    # step of rsqrt.
    falling = config.cooldown_steps or num_steps - warmup
    steepest = 2.0 * np.pi / 2 / falling
    if config.schedule == "rsqrt":
        steepest = max(steepest, 2.0 * (1 - np.sqrt(1 - 1 / (1 + config.timescale_steps))))
    assert np.diff(found[max(warmup - 1, 0) :]).min() >= -steepest - 1e-6


def at(step, num_steps, **fields):
    config = OptimConfig(peak_learning_rate=1.0, warmup_steps=4, **fields)
    return float(learning_rate(config, num_steps)(step))


def test_the_formulas_by_hand():
    rsqrt = {"schedule": "rsqrt", "timescale_steps": 10}
    np.testing.assert_allclose(at(34, 100, **rsqrt), 0.5, rtol=1e-6)  # (10 / (30 + 10))^0.5
    cooled = {**rsqrt, "cooldown_steps": 8}
    np.testing.assert_allclose(at(34, 42, **cooled), 0.5, rtol=1e-6)
    np.testing.assert_allclose(at(36, 42, **cooled), 0.5 * 0.75, rtol=1e-6)
    wsd = {"schedule": "wsd", "cooldown_steps": 10, "final_share": 0.2}
    found = [at(step, 30, **wsd) for step in (0, 3, 20, 25, 30)]
    np.testing.assert_allclose(found, [0.25, 1, 1, 0.6, 0.2], rtol=1e-6)
    linear = {"schedule": "linear", "final_share": 0.5}
    np.testing.assert_allclose([at(s, 12, **linear) for s in (4, 8, 12)], [1, 0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(at(8, 12, final_share=0.5), 0.75, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_end_may_be_the_peak(schedule):
    assert at(9, 12, schedule=schedule, final_share=1.0) == 1.0
