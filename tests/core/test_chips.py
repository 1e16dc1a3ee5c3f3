import pytest

from clipjax.core.chips import CHIPS, chip_of, peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("TPU v5", 459e12),
        ("TPU v5 lite", 197e12),  # the longest name that fits counts
        ("TPU v5p", 459e12),
        ("cpu", None),
    ],
)
def test_the_peak_of_a_device_comes_from_its_kind(kind, peak):
    assert peak_flops(kind) == peak
    assert kind == "cpu" or peak in {chip.bf16_flops for chip in CHIPS.values()}


def test_a_name_belongs_to_one_chip():
    kinds = [kind for chip in CHIPS.values() for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))
    for name, chip in CHIPS.items():
        assert all(chip_of(kind) is chip for kind in chip.kinds), name


@pytest.mark.parametrize("name", CHIPS)
def test_figures_are_in_the_units_that_they_say(name):
    """Memory is filled in 10 to 200 ms, and links are slower than memory but not than networks."""
    chip = CHIPS[name]
    assert 0.01 < chip.memory_bytes / chip.memory_bandwidth < 0.2
    assert chip.network_bandwidth < chip.link_bandwidth < chip.memory_bandwidth
    assert 0.85 * chip.memory_bytes < chip.usable_bytes < chip.memory_bytes
    assert 50e12 < chip.bf16_flops < 5e15
