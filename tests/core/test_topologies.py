import contextlib
import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config import UsageError, UserError
from clipjax.core import topologies
from clipjax.core.topologies import devices_of, parse_topology, prepare_environment


@pytest.mark.parametrize(
    ("name", "devices", "domain", "platform"),
    [
        ("cpu:8", 8, 8, "cpu"),
        ("v5e:16x16", 256, 256, "tpu"),
        ("V5E:2x4", 8, 8, "tpu"),
        ("v5litepod:1x1", 1, 1, "tpu"),
        ("v5e:8x16*2", 256, 128, "tpu"),
        ("v5p:8x8x8", 512, 512, "tpu"),
        ("tpu7x:2x2x1", 8, 8, "tpu"),  # a chip is two devices
        ("h100:32x8", 256, 8, "gpu"),
        ("h100:8", 8, 8, "gpu"),
        ("gb200:2x72", 144, 72, "gpu"),
    ],
)
def test_a_name_says_how_many_devices_there_are_and_which_are_near(name, devices, domain, platform):
    found = parse_topology(name)
    assert (found.num_devices, found.domain_size, found.platform) == (devices, domain, platform)
    assert (found.chip is None) == (platform == "cpu")


def test_slices_are_said_in_the_name_or_beside_it():
    assert parse_topology("v5e:8x16", 2).num_devices == 256
    with pytest.raises(UsageError, match="give the slices once"):
        parse_topology("v5e:8x16*2", 2)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v5ee:4x4", r"no machine 'v5ee'\. Did you mean 'v5e'"),
        ("h10:8", "Did you mean 'h100'"),
        ("v5e", "expected v5e:SIZES, such as v5e:16x16"),
        ("v5e:axb", "expected v5e:SIZES"),
        ("v5e:4x4*", "expected v5e:SIZES"),
        ("v5e:16", "a v5e slice has 2 axes"),
        ("v5p:8x8", "a v5p slice has 3 axes, such as v5p:8x8x8"),
        ("v5e:3x3", "Nearest: v5e:4x4"),
        ("v5e:32x32", r"at most 16x16.*Nearest: v5e:16x16; more chips are more slices"),
        ("v5e:4x0", "at least 1"),
        ("v5e:4x4*0", "at least 1"),
        ("h100:4x9", r"at most 8\), such as h100:32x8"),
        ("h100:2x2x2", "expected hosts x GPUs"),
        ("h100:2x8*2", "only TPUs come in slices"),
        ("cpu:2x4", "such as cpu:8"),
    ],
)
def test_a_machine_that_is_not_made_is_refused_with_the_nearest_that_is(name, told):
    with pytest.raises(UsageError, match=told) as caught:
        parse_topology(name)
    assert str(caught.value).startswith(f"--topology={name}")


@given(st.text(max_size=20))
def test_any_text_is_a_machine_or_a_mistake_of_the_user(text):
    with contextlib.suppress(UsageError):
        assert parse_topology(text).num_devices > 0


@given(st.integers(1, 20), st.integers(1, 20))
def test_the_nearest_slice_that_is_named_is_one(rows, columns):
    name = f"v5e:{rows}x{columns}"
    try:
        parse_topology(name)
    except UsageError as error:
        nearest = str(error).partition("Nearest: ")[2].partition(";")[0]
        assert parse_topology(nearest).num_devices <= 256


def test_a_torus_that_is_closed_sends_both_ways():
    open_ends, closed = parse_topology("v5e:8x8"), parse_topology("v5e:16x16")
    assert closed.link_bandwidth == 2 * open_ends.link_bandwidth == 100e9
    assert parse_topology("h100:8").link_bandwidth == 450e9
    assert parse_topology("cpu:8").link_bandwidth is None


def test_simulated_devices_are_those_of_this_process():
    assert devices_of(parse_topology("cpu:8")) == jax.devices()
    assert len(devices_of(parse_topology("cpu:4"))) == 4
    with pytest.raises(UserError, match="simulates 8 devices"):
        devices_of(parse_topology("cpu:16"))


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "plan-tpu"), ("h100:8", "plan-gpu")])
def test_a_compiler_that_is_missing_is_named_with_what_brings_it(name, extra, monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"clipjax\[{extra}\]"):
        devices_of(parse_topology(name))


@pytest.mark.parametrize("name", ["cpu:3", "v5e:2x2", "h100:8"])
def test_the_compilers_look_for_no_accelerator(name, monkeypatch):
    environment = {"XLA_FLAGS": "--before --xla_cpu_of_a_cpu=1"}
    monkeypatch.setattr(topologies.os, "environ", environment)
    prepare_environment(parse_topology(name))
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["XLA_FLAGS"].startswith("--before")
    assert ("count=3" in environment["XLA_FLAGS"]) == (name == "cpu:3")
    assert ("--xla_cpu_of_a_cpu=1" in environment["XLA_FLAGS"]) == (name != "v5e:2x2")
    assert ("CUDA_VISIBLE_DEVICES" in environment) == (name == "h100:8")


def test_targets_of_gpus_are_texts_of_their_figures():
    from clipjax.core.chips import CHIPS
    from clipjax.core.gpu_targets import FIGURES, target_text

    for family, card in FIGURES.items():
        text = target_text(family)
        assert text.count("{") == text.count("}") == 3
        assert f"device_memory_size: {CHIPS[family].memory_bytes}\n" in text
        # What the vector units do at most is on every data sheet: 2 FLOP a lane and cycle.
        teraflops = 2 * card.cores * card.fpus * card.clock_ghz / 1e3
        sheet = {"a100": 19.5, "h100": 67, "h200": 67, "b200": 75, "gb200": 80}[family]
        assert math.isclose(teraflops, sheet, rel_tol=0.01)
