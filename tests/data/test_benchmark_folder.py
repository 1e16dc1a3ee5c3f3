"""CLIP_benchmark's layout, on this machine and behind a web server."""

import re

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.data.benchmark_folder import CLASS_NAMES, BenchmarkFolder


@pytest.fixture
def served(benchmark_root, server):
    """The address of wds_colours on a server."""
    folder = benchmark_root / "wds_colours"
    for path in folder.rglob("*"):
        if path.suffix in (".tar", ".txt"):
            server.add(f"data/wds_colours/{path.relative_to(folder)}", path.read_bytes())
    return f"{server.root}/data/wds_colours"


def test_a_server_gives_what_the_folder_does(benchmark_root, served, remote_config, tmp_path):
    here = BenchmarkFolder(str(benchmark_root / "wds_colours"))
    there = BenchmarkFolder(served, remote_config(), index_dir=str(tmp_path))
    assert here.exists()
    assert there.exists()
    assert there.lines(CLASS_NAMES) == here.lines(CLASS_NAMES)
    assert there.kind() == here.kind() == "classification"
    one, two = here.open("test", ["cls"]), there.open("test", ["cls"])
    assert len(one) == len(two) == 16
    for index in range(16):
        assert one[index] == two[index]
    one.close()
    two.close()


def test_the_whole_way_from_a_server(benchmark_root, served, remote_config):
    from clipjax.data.resize import EvaluationTransform
    from clipjax.evals.open_suite import open_benchmark
    from clipjax.evals.suites import benchmark_of

    root = served.replace("wds_colours", "wds_{dataset}")
    there = open_benchmark(
        benchmark_of("folder:colours"), root, EvaluationTransform(), remote=remote_config()
    )
    here = open_benchmark(
        benchmark_of("folder:colours"), str(benchmark_root), EvaluationTransform()
    )
    assert there.sha256() == here.sha256()
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    for index in range(16):
        there.items.fill(index, pixels[0])
        here.items.fill(index, pixels[1])
        np.testing.assert_array_equal(*pixels)


def test_what_a_server_lacks(served, remote_config):
    folder = BenchmarkFolder(served.replace("colours", "birds"), remote_config())
    assert not folder.exists()
    assert folder.text(CLASS_NAMES) is None
    with pytest.raises(UserError, match=re.escape("test/nshards.txt: no such file")):
        folder.shards()


@pytest.mark.parametrize("status", [401, 403, 410])
def test_servers_that_hide_what_there_is(served, server, remote_config, status):
    server.fault = lambda number, request: status
    assert BenchmarkFolder(served, remote_config()).text(CLASS_NAMES) is None


@pytest.mark.parametrize(("fault", "said"), [("whole", "no range requests"), (400, "answered 400")])
def test_a_server_that_cannot_be_read_is_not_one_without_the_file(
    served, server, remote_config, fault, said
):
    server.fault = lambda number, request: fault
    with pytest.raises(UserError, match=said):
        BenchmarkFolder(served, remote_config()).exists()


@pytest.mark.parametrize(
    ("address", "base"),
    [
        (
            "https://huggingface.co/datasets/djghosh/wds_cars_test/tree/main",
            "https://huggingface.co/datasets/djghosh/wds_cars_test/resolve/main",
        ),
        (
            "https://huggingface.co/datasets/djghosh/wds_cars_test",
            "https://huggingface.co/datasets/djghosh/wds_cars_test/resolve/main",
        ),
        ("https://host/wds_cars_test/", "https://host/wds_cars_test"),
        ("/data/wds_cars_test", "/data/wds_cars_test"),
    ],
)
def test_where_the_files_of_an_address_are(address, base):
    assert BenchmarkFolder(address)._base == base


def test_text_that_is_none(tmp_path):
    (tmp_path / CLASS_NAMES).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8 text"):
        BenchmarkFolder(str(tmp_path)).lines(CLASS_NAMES)
