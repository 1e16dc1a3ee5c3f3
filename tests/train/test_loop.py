"""What the line of the log says of the input."""

import re
import time

import pytest

from clipjax.models.cost import pair_forward_flops
from clipjax.train.flops import training_flops
from clipjax.train.loop import Loop, Meter


class Stages:
    """Seconds of waiting and of the stages, set by the test."""

    def __init__(self):
        self.waited, self.seconds = 0.0, {"read": 1.0, "decode": 2.0}


@pytest.fixture
def stages():
    return Stages()


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves on."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def meter(tiny_config, stages, clock):
    return Meter(tiny_config, 1e9, lambda: stages.waited, lambda: stages.seconds)


def test_rates_and_shares_are_of_the_time_since_the_last_reading(meter, stages, clock):
    clock[0] += 8.0
    stages.waited = 2.0
    stages.seconds = {"read": 2.0, "decode": 5.0, "tokenize": 0.0}
    read = meter.read(4)
    assert read["time/step_seconds"] == 2.0
    assert read["time/samples_per_second"] == 4 * 16 / 8
    assert read["time/input_wait_share"] == 0.25
    assert read["time/input/read_share"] == 0.25
    assert read["time/input/decode_share"] == 0.75
    assert "time/input/tokenize_share" not in read
    assert list(meter.stage_shares) == ["decode", "read"]
    clock[0] += 1.0
    stages.seconds = {"read": 2.0, "decode": 5.0, "tokenize": 3.0}
    assert meter.read(5)["time/input_wait_share"] == 0.0
    assert meter.stage_shares == {"tokenize": 1.0}


def test_what_was_before_a_restart_is_forgotten(meter, stages, clock):
    clock[0] += 50.0
    stages.waited, stages.seconds = 40.0, {"read": 30.0, "decode": 2.0}
    meter.restart(0)
    clock[0] += 2.0
    stages.seconds = {"read": 30.0, "decode": 4.0}
    read = meter.read(1)
    assert read["time/input_wait_share"] == 0.0
    assert meter.stage_shares == {"decode": 1.0}


def test_a_meter_without_stages_has_none(tiny_config):
    meter = Meter(tiny_config, 1e9, lambda: 0.0)
    assert not [name for name in meter.read(1) if name.startswith("time/input/")]


def test_the_passes_of_a_teacher_count(tiny_config, clock):
    (stage,), found = tiny_config.parts, []
    for teacher in (None, tiny_config.model):
        meter = Meter(tiny_config, 1e9, lambda: 0.0, teacher=teacher)
        meter.count(stage, 16)
        clock[0] += 1.0
        found.append(meter.read(1)["time/mfu"])
    alone, taught = found
    forward = pair_forward_flops(tiny_config.model)
    assert taught / alone == pytest.approx(1 + forward / training_flops(tiny_config))


def line(config, meter, stages, clock, share):
    """The line after a step of one second in which that share was waited for input."""
    loop = Loop.__new__(Loop)  # of a loop the line needs no more than this
    loop._config, loop._meter = config, meter
    loop._first_step, loop._started = 0, time.monotonic()
    stages.waited += share
    stages.seconds = {
        "read": stages.seconds["read"] + 1.0,
        "decode": stages.seconds["decode"] + 3.0,
    }
    clock[0] += 1.0
    known = ("train/loss", "train/logit_scale", "train/grad_norm", "train/bad_steps")
    return loop._line(2, dict.fromkeys(known, 0.0) | meter.read(2))


@pytest.mark.parametrize(
    ("share", "said"), [(0.0, 0), (0.04, 0), (0.051, 5), (0.4, 40), (1.5, 100)]
)
def test_the_line_says_input_bound_and_why_only_above_five_percent(
    tiny_config, meter, stages, clock, share, said
):
    text = line(tiny_config, meter, stages, clock, share)
    found = re.search(r"  input-bound (\d+) %: decode 75 %, read 25 %", text)
    assert (int(found[1]) if found else 0) == said
    assert ("input-bound" in text) == bool(said)
    assert f"input wait {min(100, 100 * share):.0f} %" in text
