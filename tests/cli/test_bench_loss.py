"""`clipjax bench loss`, as it is called."""

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(clipjax_command):
    def run(*args):
        done = clipjax_command("bench", "loss", *args, "--json", "-")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return run


def test_every_form_is_timed_against_the_plain_one(bench):
    figures, told = bench(
        "--devices=4", "--batch_size=64", "--dim=8", "--block=8", "--rounds=2"
    )  # fmt: skip
    names = [(row["loss"], row["form"]) for row in figures["rows"]]
    assert names == [
        ("softmax", "plain"), ("softmax", "local"), ("softmax", "chunked"), ("softmax", "ring"),
        ("sigmoid", "plain"), ("sigmoid", "chunked"), ("sigmoid", "ring"),
    ]  # fmt: skip
    for row in figures["rows"]:
        assert row["temporary_bytes"] > 0
        low, high = row["ratio_interval"]
        assert 0 < low <= row["ratio"] <= high
        assert (row["form"] == "plain") <= (row["ratio"] == 1)
        assert f"{row['loss']:8} {row['form']:8}" in told
    assert figures["devices"] == 4


def test_the_ring_takes_the_same_memory_on_2_4_8_and_16_devices(bench):
    """At a fixed local batch; one matrix grows with the number of devices."""
    found = {}
    for devices in (2, 4, 8, 16):
        figures, _ = bench(
            f"--devices={devices}", f"--batch_size={256 * devices}", "--dim=64", "--block=128",
            "--memory_only",
        )  # fmt: skip
        assert "ratio" not in figures["rows"][0]
        found[devices] = {
            (row["loss"], row["form"]): row["temporary_bytes"] for row in figures["rows"]
        }
    for kind in ("softmax", "sigmoid"):
        assert len({of[kind, "ring"] for of in found.values()}) == 1
        assert found[16][kind, "plain"] > 4 * found[2][kind, "plain"]
    assert found[16]["softmax", "local"] > 7 * found[2]["softmax", "local"]


def test_a_batch_that_does_not_divide_is_refused(clipjax_command):
    done = clipjax_command("bench", "loss", "--devices=4", "--batch_size=66")
    assert done.returncode == 2
    assert "batch_size=66 cannot be split over 4 devices" in done.stderr
    assert "64 and 68" in done.stderr
