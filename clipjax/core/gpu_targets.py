"""What XLA's compiler for NVIDIA GPUs must know of a card that is not there.

The text is an XLA `GpuTargetConfigProto`, written from the published figures of each card.

Sources: NVIDIA A100, H100, H200 and Blackwell architecture white papers and data sheets; limits of
threads, registers and shared memory by compute capability: CUDA C++ Programming Guide, appendix
"Compute Capabilities", https://docs.nvidia.com/cuda/cuda-c-programming-guide/.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from clipjax.core.chips import CHIPS

_KIB, _MIB = 1 << 10, 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """Published figures of a card that the compiler's choices depend on.

    Attributes:
        capability: CUDA compute capability.
        cores: streaming multiprocessors.
        fpus: float32 lanes of each.
        shared_bytes: shared memory of each, a KiB more than the most that a block may ask for.
        l2_bytes: cache that all share.
        clock_ghz: boost clock.
    """

    capability: tuple[int, int]
    cores: int
    fpus: int
    shared_bytes: int
    l2_bytes: int
    clock_ghz: float


_HOPPER = Figures(
    capability=(9, 0),
    cores=132,
    fpus=128,
    shared_bytes=228 * _KIB,
    l2_bytes=50 * _MIB,
    clock_ghz=1.98,
)

FIGURES: Mapping[str, Figures] = MappingProxyType(
    {
        "a100": Figures(
            capability=(8, 0),
            cores=108,
            fpus=64,
            shared_bytes=164 * _KIB,
            l2_bytes=40 * _MIB,
            clock_ghz=1.41,
        ),
        "h100": _HOPPER,
        "h200": _HOPPER,  # other memory only
        "b200": Figures(
            capability=(10, 0),
            cores=148,
            fpus=128,
            shared_bytes=228 * _KIB,
            l2_bytes=126 * _MIB,
            clock_ghz=1.965,
        ),
        "gb200": Figures(
            capability=(10, 0),
            cores=152,
            fpus=128,
            shared_bytes=228 * _KIB,
            l2_bytes=126 * _MIB,
            clock_ghz=2.062,
        ),
    }
)


def target_text(family: str) -> str:
    """Returns the protocol buffer, as text, that describes a card to XLA.

    Args:
        family: a key of `FIGURES`.
    """
    card, chip = FIGURES[family], CHIPS[family]
    major, minor = card.capability
    return f"""\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * _KIB}
  shared_memory_per_core: {card.shared_bytes}
  shared_memory_per_block_optin: {card.shared_bytes - _KIB}
  threads_per_core_limit: 2048
  core_count: {card.cores}
  fpus_per_core: {card.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {chip.memory_bandwidth:.0f}
  l2_cache_size: {card.l2_bytes}
  clock_rate_ghz: {card.clock_ghz}
  device_memory_size: {chip.memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  runtime_version: "12.8.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.kinds[0]}"
"""
