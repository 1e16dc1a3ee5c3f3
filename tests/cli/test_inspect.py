import math

import pytest

from clipjax.cli.main import main
from clipjax.config import to_json_dict
from clipjax.models import init_params, num_params
from clipjax.models.cost import pair_forward_flops


@pytest.fixture(scope="module")
def inspect(config_file, tmp_path_factory):
    """Runs `clipjax inspect` in this process; returns its figures."""
    import json

    folder = tmp_path_factory.mktemp("figures")

    def run(*flags):
        path = folder / "figures.json"
        with pytest.raises(SystemExit) as ended:
            main(["inspect", f"--config={config_file}", f"--json={path}", *flags])
        assert ended.value.code == 0
        return json.loads(path.read_text())

    return run


@pytest.fixture(scope="module")
def figures(inspect):
    return inspect()


def test_the_config_is_the_resolved_one(figures, inspect, tiny_config):
    import json

    assert figures["config"] == json.loads(json.dumps(to_json_dict(tiny_config)))
    assert inspect("--config.seed=7")["config"]["seed"] == 7


def test_parameters_are_those_that_the_run_would_have(figures, tiny_config):
    params = init_params(tiny_config.model, 0)
    rows = {
        row["name"].removeprefix("params/"): row
        for row in figures["state"]
        if row["name"].startswith("params/")
    }
    assert {name: tuple(row["shape"]) for name, row in rows.items()} == {
        name: leaf.shape for name, leaf in params.items()
    }
    total = sum(leaf.size for leaf in params.values())
    assert figures["num_parameters"] == num_params(tiny_config.model) == total
    assert sum(row["bytes"] for row in rows.values()) == 4 * total


def test_the_state_is_parameters_moments_average_and_counters(figures):
    """Four copies of the parameters, and at least three int32: step, bad steps, Adam's count."""
    counters = figures["state_bytes"] - 4 * 4 * figures["num_parameters"]
    assert counters >= 12
    assert counters % 4 == 0
    assert counters < 100


def test_shardings_divide_the_bytes(inspect):
    figures = inspect("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    assert figures["mesh"] == {"replica": 1, "data": 2, "fsdp": 2, "tensor": 2}
    assert any(row["device_bytes"] == row["bytes"] // 4 for row in figures["state"])
    assert figures["state_bytes_per_device"] < figures["state_bytes"] / 2


def test_the_cost_is_that_of_the_steps(figures, tiny_config):
    forward = pair_forward_flops(tiny_config.model)
    assert figures["forward_flops_per_sample"] == forward
    assert figures["train_flops_per_sample"] == 3 * forward
    assert figures["samples_seen"] == 12 * 16
    assert figures["train_flops"] == 3 * forward * 12 * 16
    assert (figures["pairs"], figures["epochs"]) == (64, 3.0)


def test_the_first_batch_is_the_same_in_every_run_and_with_any_number_of_threads(figures, inspect):
    shown = ("first_batch", "first_batch_sha256", "manifest")
    for threads in (1, 3):
        again = inspect(f"--config.data.threads={threads}")
        assert {name: again[name] for name in shown} == {name: figures[name] for name in shown}
    other = inspect("--config.data.shuffle_seed=1")
    assert other["first_batch_sha256"] != figures["first_batch_sha256"]
    assert other["manifest"] == figures["manifest"]


def test_the_first_batch_shows_pairs_of_the_data(figures):
    first = figures["first_batch"]
    assert len(first) == 8
    assert len({row["key"] for row in first}) == 8
    assert all(" square at the " in row["caption"] for row in first)
    assert all(len(row["tokens"]) == 16 and max(row["tokens"]) < 300 for row in first)


def test_the_tokenizer_is_shown_by_its_hash(inspect, figures, capsys):
    assert figures["tokenizer"]["kind"] == "bpe"
    assert len(figures["tokenizer"]["sha256"]) == 64
    byte = inspect("--config.tokenizer.kind=byte", "--config.model.text.vocab_size=258")
    assert byte["tokenizer"]["kind"] == "byte"
    assert byte["tokenizer"]["sha256"] != figures["tokenizer"]["sha256"]
    shown = f"byte tokenizer, sha256 {byte['tokenizer']['sha256'][:16]}"
    assert shown in capsys.readouterr().out


def test_data_that_is_not_there_does_not_hide_the_rest(inspect, capsys):
    figures = inspect("--config.data.shards=nothing/*.tar")
    assert "first_batch" not in figures
    assert "nothing/*.tar" in figures["data_error"]
    assert (
        f"the rest is the data, which is not there yet: {figures['data_error']}"
        in capsys.readouterr().err
    )
    assert math.isfinite(figures["num_parameters"])


def test_a_batch_that_does_not_fit_the_mesh_is_a_usage_error(config_file, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", f"--config={config_file}", "--config.data.global_batch_size=12"])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "config.data.global_batch_size=12 cannot be split over 8 devices" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_shardings_can_be_shown_for_devices_that_are_not_there(clipjax_command, config_file):
    done = clipjax_command(
        "inspect", "--config", config_file, "--devices=16", "--config.mesh.tensor=2"
    )
    assert done.returncode == 0, done.stderr
    assert "mesh {'replica': 1, 'data': 1, 'fsdp': 8, 'tensor': 2}" in done.stdout
