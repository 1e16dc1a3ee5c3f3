import dataclasses
import math

import pytest

from clipjax.config import MeshConfig, StageConfig, TrainConfig
from clipjax.core.collectives import Collective
from clipjax.core.mesh import make_mesh
from clipjax.core.topologies import parse_topology
from clipjax.train.plan_time import domains_of, roofline, rows_of, total


def one(kind, members, *, size=None, loops=(), loop_name="", axes=("data",)):
    return Collective(
        kind=kind,
        result_bytes=1000,
        axes=axes,
        members=tuple(members),
        group_size=size or len(members),
        loops=loops,
        loop_name=loop_name,
        exact=True,
    )


H100, V5E = parse_topology("h100:2x8"), parse_topology("v5e:4x4*2")
HOSTS = [0] * 8 + [1] * 8
SLICES = [0] * 16 + [1] * 16


@pytest.mark.parametrize(
    ("topology", "domains", "collective", "seconds", "network"),
    [
        # Inside a host: NVLink, 2 x 7/8 of the bytes.
        (H100, HOSTS, one("all-reduce", range(8)), 1750 / 450e9, False),
        # One of each host: its own card, 2 x 1/2 of the bytes.
        (H100, HOSTS, one("all-reduce", (0, 8)), 1000 / 50e9, True),
        # All of both: eight cards a host carry it, less than NVLink could.
        (H100, HOSTS, one("all-reduce", range(16)), 1875 / 400e9, True),
        # A ring: the pair that crosses decides.
        (H100, HOSTS, one("collective-permute", (7, 8, 15, 0), size=2), 1000 / 50e9, True),
        (H100, HOSTS, one("collective-permute", (0, 1, 1, 0), size=2), 1000 / 450e9, False),
        # A torus that is not closed sends one way.
        (V5E, SLICES, one("all-gather", range(4)), 750 / 50e9, False),
        (V5E, SLICES, one("all-gather", (0, 16)), 500 / 3.125e9, True),
    ],
)
def test_a_message_takes_the_bandwidth_of_its_narrowest_way(
    topology, domains, collective, seconds, network
):
    (row,) = rows_of([collective], [TrainConfig().model], topology, domains)
    assert math.isclose(row["seconds"], seconds, rel_tol=1e-12)
    assert row["over_network"] is network


def test_messages_of_a_kind_and_place_are_one_row(replace_in):
    config = replace_in(TrainConfig(), "model.compute.scan_layers", True)
    depth = config.model.image.depth
    layers = one("all-gather", (0, 1), loops=(depth,), loop_name="jit(step)/jvp()/while")
    ring = one(
        "collective-permute", (0, 1, 1, 0), size=2, loops=(8,), loop_name="jvp()/shard_map/while"
    )
    found = [layers, ring, layers, one("all-reduce", (0, 1)), one("all-gather", (0, 1))]
    rows = rows_of(found, [config.model], H100, HOSTS)
    told = {(r["kind"], r["place"]): (r["operations"], r["times"], r["sent_bytes"]) for r in rows}
    assert told == {
        ("all-gather", "layers"): (2, 2 * depth, depth * 1000),
        ("collective-permute", "loss"): (1, 8, 8000),
        ("all-reduce", "outside loops"): (1, 1, 1000),
        ("all-gather", "outside loops"): (1, 1, 500),
    }


def test_a_step_takes_the_longest_part_or_all_of_them(replace_in):
    """989 TFLOP are a second, 335.2 GB a tenth, and what is sent takes a fifth."""
    config = replace_in(TrainConfig(num_steps=7200), "data.global_batch_size", 4096)
    bounds = roofline(
        config.parts[0],
        H100,
        flops=989 * 10**12,
        memory_bytes=3352 * 10**8,
        collectives=[{"seconds": 0.15}, {"seconds": 0.05}],
    )
    assert bounds["bound"] == "compute"
    assert bounds["step_seconds"] == pytest.approx([1.0, 1.3])
    assert bounds["samples_per_second"] == pytest.approx([4096, 4096 / 1.3])
    assert bounds["hours"] == pytest.approx([2.0, 2.6])
    assert bounds["accelerator_hours"] == pytest.approx([32.0, 41.6])
    assert bounds["samples"] == 7200 * 4096


def test_hours_of_stages_add_up_and_their_samples_are_over_all_of_them(replace_in):
    config = replace_in(TrainConfig(num_steps=30), "data.global_batch_size", 100)
    stages = {"late": StageConfig(first_step=20, global_batch_size=400)}
    config = dataclasses.replace(config, stages=stages)
    flops = (989 * 10**12, 3 * 989 * 10**12)  # a second a step, then three
    bounds = [
        roofline(stage, H100, flops=each, memory_bytes=0, collectives=[])
        for stage, each in zip(config.parts, flops, strict=True)
    ]
    found = total(bounds, H100)
    assert found["samples"] == 20 * 100 + 10 * 400
    assert found["hours"] == pytest.approx([50 / 3600] * 2)
    assert found["accelerator_hours"] == pytest.approx([16 * 50 / 3600] * 2)
    assert found["samples_per_second"] == pytest.approx([6000 / 50] * 2)
    assert total([bounds[0], None], H100) is None


def test_nothing_is_said_of_the_time_on_a_cpu():
    cpu = parse_topology("cpu:8")
    assert roofline(TrainConfig().parts[0], cpu, flops=1, memory_bytes=1, collectives=[]) is None
    domains = domains_of(cpu, make_mesh(MeshConfig()))
    assert domains == [0] * 8
    (row,) = rows_of([one("all-reduce", (0, 1))], [TrainConfig().model], cpu, domains)
    assert row["seconds"] is None
