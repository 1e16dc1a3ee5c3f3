"""Machines by name, present or not: "v5e:16x16", "h100:32x8", "cpu:8".

The devices of a TPU or GPU that is not there come from the vendor's compiler, which needs no
accelerator: the packages of the extras `plan-tpu` and `plan-gpu`.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from clipjax.config import UsageError, UserError, did_you_mean
from clipjax.core.chips import CHIPS, Chip
from clipjax.core.gpu_targets import FIGURES, target_text

# The most chips along each axis of one slice, and how many of them share a host.
_TPU_PODS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = MappingProxyType(
    {
        "v5e": ((16, 16), (2, 2)),
        "v5p": ((16, 20, 28), (2, 2, 1)),
        "v6e": ((16, 16), (2, 2)),
        "v7x": ((16, 16, 36), (2, 2, 1)),
    }
)
_DEVICES_OF_A_CHIP = {"v7x": 2}
_COMPILER_NAMES = {"v7x": "tpu7x"}
# GPUs that NVLink joins: those of a host, or of a rack.
_MOST_OF_A_DOMAIN = {"gb200": 72}
# The packages, by platform.
COMPILERS: Mapping[str, str] = MappingProxyType({"tpu": "libtpu", "gpu": "jax_cuda13_plugin"})
_EXAMPLES = {"cpu": "cpu:8", "2": "v5e:16x16", "3": "v5p:8x8x8", "gpu": "h100:32x8"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """A machine: how many devices of which kind, and how they are joined.

    Attributes:
        name: as it was typed.
        family: a key of `CHIPS`, or "cpu".
        shape: TPU: chips along each axis of the torus of a slice; GPU: hosts, GPUs of each; CPU:
            devices.
        slices: TPU slices that a network joins.
    """

    name: str
    family: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def platform(self) -> str:
        """`tpu`, `gpu` or `cpu`."""
        return "tpu" if self.family in _TPU_PODS else "gpu" if self.family in FIGURES else "cpu"

    @property
    def chip(self) -> Chip | None:
        """Published figures of a device; None for a CPU."""
        return CHIPS.get(self.family)

    @property
    def num_devices(self) -> int:
        """What JAX counts."""
        return math.prod(self.shape) * self.slices * _DEVICES_OF_A_CHIP.get(self.family, 1)

    @property
    def domain_size(self) -> int:
        """Devices that fast links join: a slice, a host or a rack, consecutive in JAX's order."""
        return self.shape[-1] if self.platform == "gpu" else self.num_devices // self.slices

    @property
    def link_bandwidth(self) -> float | None:
        """Bytes a second that a device sends inside its domain, in one collective operation.

        A TPU uses both directions of one axis of the torus, or one where the axes are not closed
        to rings; None for a CPU.
        """
        if self.chip is None:
            return None
        if self.platform == "gpu":
            return self.chip.link_bandwidth
        length = 16 if len(self.shape) == 2 else 4
        closed = all(size % length == 0 for size in self.shape)
        return self.chip.link_bandwidth * (2 if closed else 1)


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Returns the machine that a name means; no package is needed for it.

    Args:
        name: FAMILY:SIZES, a TPU's also FAMILY:SIZES*SLICES.
        slices: TPU slices, where the name does not say.

    Raises:
        UsageError: on an unknown family or sizes that no such machine has.

    >>> parse_topology("h100:32x8").num_devices, parse_topology("v5e:8x16*2").num_devices
    (256, 256)
    """
    family, _, sizes = name.lower().partition(":")
    sizes, star, count = sizes.partition("*")
    family = {"tpu7x": "v7x", "v5litepod": "v5e", "v5lite": "v5e"}.get(family, family)
    known = ("cpu", *_TPU_PODS, *FIGURES)
    if family not in known:
        raise UsageError(
            f"--topology={name}: no machine {family!r}.{did_you_mean(family, known)} "
            f"There are: {', '.join(known)}."
        )
    example = _EXAMPLES[
        "cpu" if family == "cpu" else "gpu" if family in FIGURES else str(len(_TPU_PODS[family][0]))
    ].partition(":")[2]
    if not re.fullmatch(r"\d+(x\d+)*", sizes) or (star and not count.isdecimal()):
        raise UsageError(f"--topology={name}: expected {family}:SIZES, such as {family}:{example}.")
    if star and slices != 1:
        raise UsageError(f"--topology={name} and --slices={slices}: give the slices once.")
    shape = tuple(int(size) for size in sizes.split("x"))
    if family in FIGURES and len(shape) == 1:
        shape = (1, *shape)
    found = Topology(name=name, family=family, shape=shape, slices=int(count) if star else slices)
    _check(found, example)
    return found


def _check(topology: Topology, example: str) -> None:
    name, family, shape = topology.name, topology.family, topology.shape
    if topology.slices < 1 or 0 in shape:
        raise UsageError(f"--topology={name}: sizes and slices are at least 1.")
    if topology.slices > 1 and topology.platform != "tpu":
        raise UsageError(f"--topology={name}: only TPUs come in slices; for GPUs give the hosts.")
    if topology.platform == "cpu" and len(shape) != 1:
        raise UsageError(f"--topology={name}: expected the number of devices, such as cpu:8.")
    if topology.platform == "gpu":
        most = _MOST_OF_A_DOMAIN.get(family, 8)
        if len(shape) != 2 or shape[1] > most:
            raise UsageError(
                f"--topology={name}: expected hosts x GPUs of a host (at most {most}), such as "
                f"{family}:{example}."
            )
    if topology.platform != "tpu":
        return
    most, host = _TPU_PODS[family]
    if len(shape) != len(most):
        raise UsageError(
            f"--topology={name}: a {family} slice has {len(most)} axes, such as {family}:{example}."
        )
    whole = tuple(
        _nearest(size, limit, of) for size, limit, of in zip(shape, most, host, strict=True)
    )
    if math.prod(shape) > 1 and whole != shape:
        nearest = "x".join(map(str, whole))
        raise UsageError(
            f"--topology={name}: no {family} slice has these axes (at most "
            f"{'x'.join(map(str, most))} chips, hosts of {'x'.join(map(str, host))}). Nearest: "
            f"{family}:{nearest}; more chips are more slices, such as {family}:{nearest}*2."
        )


def _nearest(size: int, limit: int, of_host: int) -> int:
    """Returns the nearest size that a slice may have: 1, or whole hosts, up to the pod."""
    if size == 1:
        return 1
    return min(max(round(size / of_host), 1) * of_host, limit)


def prepare_environment(topology: Topology) -> None:
    """Sets what the compilers read from the environment; before JAX is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # an alarm about slow compilation
    if topology.platform == "cpu":
        flag = f"--xla_force_host_platform_device_count={topology.num_devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    if topology.platform == "gpu":  # no driver is asked for
        os.environ.update(JAX_SKIP_CUDA_CONSTRAINTS_CHECK="1", CUDA_VISIBLE_DEVICES="-1")
    if topology.platform == "tpu":
        # Its compiler ends the process on a flag that it does not know, such as one of a CPU.
        flags = os.environ.get("XLA_FLAGS", "").split()
        others = ("--xla_cpu_", "--xla_gpu_")
        os.environ["XLA_FLAGS"] = " ".join(flag for flag in flags if not flag.startswith(others))
        # No metadata server is asked for.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
        # It locks the TPUs of a machine for one process; here none is opened.
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def devices_of(topology: Topology) -> list[Any]:
    """Returns the devices of a machine that need not be there, domain by domain.

    Raises:
        UserError: if the compiler's package is missing or refuses the machine.
    """
    import jax
    from jax.experimental import topologies

    if topology.platform == "cpu":
        devices = jax.devices("cpu")
        if len(devices) < topology.num_devices:
            raise UserError(
                f"--topology={topology.name}: this process simulates {len(devices)} devices."
            )
        return devices[: topology.num_devices]
    _check_installed(topology)
    try:
        if topology.platform == "gpu":
            hosts, gpus = topology.shape
            description = topologies.get_topology_desc(
                platform="cuda",
                target_config=target_text(topology.family),
                topology=f"1x{hosts}x{gpus}",
            )
        else:
            sizes = "x".join(map(str, topology.shape))
            options = {"num_slices": topology.slices} if topology.slices > 1 else {}
            description = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{_COMPILER_NAMES.get(topology.family, topology.family)}:{sizes}",
                **_host_bounds(topology),
                **options,
            )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--topology={topology.name}: the compiler knows no such machine ("
            f"{str(error).splitlines()[0]})."
        ) from error
    return list(description.devices)


def _host_bounds(topology: Topology) -> dict[str, Any]:
    """Returns what tells the compiler of a slice that is smaller than a usual host."""
    _, host = _TPU_PODS[topology.family]
    bounds = [min(size, of) for size, of in zip(topology.shape, host, strict=True)]
    if tuple(bounds) == host:
        return {}
    return {"chips_per_host_bounds": tuple([*bounds, 1][:3])}


def _check_installed(topology: Topology) -> None:
    package = COMPILERS[topology.platform]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"--topology={topology.name}: the package {package} is not installed. It holds the "
            f"compiler; it needs pip install 'clipjax[plan-{topology.platform}]'."
        )
