"""What accelerators can do at most, from the vendors' data sheets.

Bandwidths are of one device in one direction, in bytes a second. A device is what JAX counts as
one: a chip, but half a chip for TPU v3 and TPU7x.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

GIB = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Published figures of one device.

    Attributes:
        kinds: how the names begin that JAX gives such a device.
        bf16_flops: dense peak in bfloat16, FLOP/s.
        memory_bytes: of the device.
        reserved_bytes: of them, what no program gets. TPU: what its compiler keeps back, as it says
            itself where a program is too large (libtpu 0.0.42 to 0.0.50). GPU, an assumption: a
            tenth, for CUDA, NCCL and fragments (XLA_PYTHON_CLIENT_MEM_FRACTION=0.9).
        memory_bandwidth: of the device's memory.
        link_bandwidth: to the neighbours inside a domain. GPU: NVLink, all links. TPU: one link of
            the torus, of which an axis has two.
        network_bandwidth: between domains (hosts, NVLink domains, TPU slices).
        source: where they are published.
    """

    kinds: tuple[str, ...]
    bf16_flops: float
    memory_bytes: int
    reserved_bytes: int
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    source: str

    @property
    def usable_bytes(self) -> int:
        """What a program may fill."""
        return self.memory_bytes - self.reserved_bytes


_Number = int | float


def _tpu(
    kinds: tuple[str, ...],
    teraflops: _Number,
    gib: int,
    memory: _Number,
    link: _Number,
    network: _Number,
    *,
    usable_gib: _Number,
    page: str,
) -> Chip:
    return Chip(
        kinds=kinds,
        bf16_flops=teraflops * 1e12,
        memory_bytes=gib * GIB,
        reserved_bytes=round((gib - usable_gib) * GIB),
        memory_bandwidth=memory * 1e9,
        link_bandwidth=link * 1e9,
        network_bandwidth=network * 1e9,
        source=f"https://docs.cloud.google.com/tpu/docs/{page}",
    )


def _gpu(
    kind: str,
    teraflops: _Number,
    memory_bytes: int,
    memory: _Number,
    link: _Number,
    network: _Number,
    page: str,
) -> Chip:
    return Chip(
        kinds=(kind,),
        bf16_flops=teraflops * 1e12,
        memory_bytes=memory_bytes,
        reserved_bytes=memory_bytes // 10,
        memory_bandwidth=memory * 1e9,
        link_bandwidth=link * 1e9,
        network_bandwidth=network * 1e9,
        source=f"https://www.nvidia.com/en-us/data-center/{page}/ (SXM or NVLink form; the network "
        "is one card a GPU, as in a DGX)",
    )


# TFLOP/s, memory, then GB/s of memory, link and network. The links of a TPU are the published
# bidirectional figure of a chip over its links (4, or 6 in a 3D torus) and both directions; its
# network is that of a pod, or of a chip, over the devices. Of v5p the compiler would give 95.73
# GiB, more than is published.
CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "v3": _tpu(("TPU v3",), 61.5, 16, 450, 20.5, 3.1, usable_gib=15.48, page="v3"),
        "v4": _tpu(("TPU v4",), 275, 32, 1228, 50, 6.25, usable_gib=30.5, page="v4"),
        "v5e": _tpu(
            *(("TPU v5 lite", "TPU v5e"), 197, 16, 819, 50, 3.125), usable_gib=15.75, page="v5e"
        ),
        "v5p": _tpu(
            *(("TPU v5", "TPU v5p"), 459, 95, 2765, 100, 6.25), usable_gib=94.75, page="v5p"
        ),
        "v6e": _tpu(
            *(("TPU v6 lite", "TPU v6e"), 918, 32, 1638, 100, 12.5), usable_gib=31.24, page="v6e"
        ),
        "v7x": _tpu(("TPU7x",), 1153.5, 96, 3690, 50, 6.25, usable_gib=94.74, page="tpu7x"),
        "a100": _gpu("NVIDIA A100", 312, 80 * GIB, 2039, 300, 25, "a100"),
        "h100": _gpu("NVIDIA H100", 989, 84_942_979_072, 3352, 450, 50, "h100"),
        "h200": _gpu("NVIDIA H200", 989, 141_000_000_000, 4800, 450, 50, "h200"),
        "b200": _gpu("NVIDIA B200", 2250, 180_000_000_000, 8000, 900, 50, "dgx-b200"),
        "gb200": _gpu("NVIDIA GB200", 2500, 186_000_000_000, 8000, 900, 50, "gb200-nvl72"),
    }
)


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip whose name a device bears, by the longest that fits; None for others."""
    named = {kind: chip for chip in CHIPS.values() for kind in chip.kinds}
    known = [kind for kind in named if device_kind.startswith(kind)]
    return named[max(known, key=len)] if known else None


def peak_flops(device_kind: str) -> float | None:
    """Returns the bfloat16 peak of a device in FLOP/s, or None if the kind is not in the table.

    >>> peak_flops("NVIDIA H100 80GB HBM3"), peak_flops("cpu")
    (989000000000000.0, None)
    """
    chip = chip_of(device_kind)
    return None if chip is None else chip.bf16_flops
