"""What the devices say to each other in a compiled program, read from its text.

XLA's own cost analysis counts the body of a loop once. Here the loops around an operation multiply
it: their lengths stand in the text, as `known_trip_count` or as the constant of the condition.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPERATION = re.compile(r"^  (?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)(?:e\dm\d\w*)?\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|called_computations|branch_computations|true_computation"
    r"|false_computation)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
_BYTES = {"pred": 1, "token": 0, "c64": 8, "c128": 16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One operation of the text.

    Attributes:
        kind: one of `KINDS`.
        result_bytes: of what one device holds afterwards, each time.
        axes: of the mesh along which the devices talk; those of size 1 are left out.
        members: the first group of devices, by position in the mesh; for collective-permute all
            pairs of sender and receiver, one after the other.
        group_size: devices that share one result; 2 for collective-permute.
        loops: how often each loop around it runs, outermost first; 1 where the text does not say.
        loop_name: where the innermost loop comes from in the program that was traced.
        exact: whether all its loops say how often they run.
    """

    kind: str
    result_bytes: int
    axes: tuple[str, ...]
    members: tuple[int, ...]
    group_size: int
    loops: tuple[int, ...]
    loop_name: str
    exact: bool

    @property
    def times(self) -> int:
        """How often it runs in one call of the program."""
        return math.prod(self.loops)

    @property
    def sent_bytes(self) -> float:
        """What each device sends each time, by the algorithm that sends least.

        Source: Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication
            Operations in MPICH", section 4, https://doi.org/10.1177/1094342005051521.
        """
        size, others = self.group_size, self.group_size - 1
        return {
            "all-reduce": 2 * self.result_bytes * others / size,
            "all-gather": self.result_bytes * others / size,
            "reduce-scatter": float(self.result_bytes * others),
            "all-to-all": self.result_bytes * others / size,
            "collective-permute": float(self.result_bytes),
        }[self.kind]


def collectives(
    text: str, mesh_shape: Mapping[str, int], devices: Sequence[Any] = ()
) -> list[Collective]:
    """Returns every operation between devices that a program runs.

    One that is started and ended apart counts once. Groups of one device are left out.

    Args:
        text: of `jax.stages.Compiled.as_text`.
        mesh_shape: sizes of the mesh by name, in order; devices are numbered by it.
        devices: of the mesh, in order; needed where they are TPUs of several slices, whose program
            numbers the devices of one slice and hands over to the host what crosses.
    """
    programs, entry = _computations(text)
    slices = _slices(devices)
    devices_of_one = slices[0] if slices else list(range(math.prod(mesh_shape.values())))
    found = []
    chained: set[tuple[str, str]] = set()
    for operation, loops in _walk(programs, entry, ()):
        kind, _, part = operation.opcode.partition("-start")
        if operation.opcode == "recv" and (crossing := _crossing(operation, devices, slices)):
            kind, size, groups = crossing
            found.append(_collective(kind, size, groups, _axes(groups, mesh_shape), loops))
            continue
        if kind not in KINDS or part:
            continue
        if chain := _chain(operation):
            if chain in chained:
                continue
            chained.add(chain)
        operations = programs[operation.computation]
        size = _bytes(operation.shape)
        if operation.opcode.endswith("-start"):  # its end has the shape of the result
            ends = (o for o in operations.values() if o.opcode == f"{kind}-done")
            mine = (o for o in ends if re.search(rf"%?{re.escape(operation.name)}\b", o.rest))
            size = _bytes(next(mine, operation).shape)
        groups = _groups(operation.rest, kind, len(devices_of_one))
        groups = [[devices_of_one[device] for device in group] for group in groups]
        axes = _axes(groups, mesh_shape)
        if not axes:
            continue
        if kind == "all-reduce" and _is_scattered(operation):
            kind, size = "reduce-scatter", size // len(groups[0])
        found.append(_collective(kind, size, groups, axes, loops))
    return found


def _collective(
    kind: str,
    result_bytes: int,
    groups: Sequence[Sequence[int]],
    axes: tuple[str, ...],
    loops: tuple["_Loop", ...],
) -> Collective:
    return Collective(
        kind=kind,
        result_bytes=result_bytes,
        axes=axes,
        members=tuple(itertools.chain(*groups) if kind == "collective-permute" else groups[0]),
        group_size=len(groups[0]),
        loops=tuple(loop.times or 1 for loop in loops),
        loop_name=loops[-1].name if loops else "",
        exact=all(loop.times is not None for loop in loops),
    )


@dataclasses.dataclass(frozen=True)
class _Operation:
    name: str
    shape: str
    opcode: str
    rest: str
    computation: str


@dataclasses.dataclass(frozen=True)
class _Loop:
    times: int | None
    name: str


_Programs = dict[str, dict[str, _Operation]]


def _computations(text: str) -> tuple[_Programs, str]:
    programs: _Programs = {}
    entry = current = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = head[2]
            programs[current] = {}
            entry = current if head[1] else entry
        elif current and (match := _OPERATION.match(line)):
            programs[current][match[1]] = _Operation(
                match[1], match[2], match[3], match[4], current
            )
    if not entry:
        raise ValueError("no ENTRY computation: not the text of a compiled program")
    return programs, entry


def _walk(
    programs: _Programs, computation: str, loops: tuple[_Loop, ...]
) -> Iterator[tuple[_Operation, tuple[_Loop, ...]]]:
    """Yields every operation as often as it is called, with the loops around it."""
    for operation in programs.get(computation, {}).values():
        if operation.opcode == "while":
            body = re.search(r"\bbody=%?([\w.\-]+)", operation.rest)
            assert body is not None
            yield from _walk(programs, body[1], (*loops, _loop(operation, programs)))
            continue
        yield operation, loops
        if operation.opcode in ("async-done", "async-update"):
            continue  # they name what async-start has called
        for names in _CALLED.findall(operation.rest):
            for name in re.findall(r"%([\w.\-]+)", names):
                yield from _walk(programs, name, loops)


def _loop(operation: _Operation, programs: _Programs) -> _Loop:
    traced = re.search(r'op_name="([^"]*)"', operation.rest)
    name = traced[1] if traced else ""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', operation.rest)
    if known:
        return _Loop(int(known[1]), name)
    condition = re.search(r"\bcondition=%?([\w.\-]+)", operation.rest)
    constants = {
        int(found[1])
        for inner, _ in _walk(programs, condition[1] if condition else "", ())
        if inner.opcode == "constant"
        and inner.shape.startswith("s32[]")
        and (found := re.match(r"(\d+)\)", inner.rest))
    }
    return _Loop(constants.pop() if len(constants) == 1 else None, name)


def _chain(operation: _Operation) -> tuple[str, str] | None:
    """Returns what the fragments share that the TPU's compiler makes of one collective.

    It sends a part in each of several fusions; the shape of each fragment is that of the whole.
    """
    chain = re.search(r'chain_id="(\d+)"', operation.rest)
    channel = re.search(r"channel_id=(\d+)", operation.rest)
    return (chain[1], channel[1]) if chain and channel else None


def _is_scattered(operation: _Operation) -> bool:
    """Whether each device keeps its part only: a fusion that the TPU's compiler names so."""
    return operation.computation.startswith("all-reduce-scatter")


def _slices(devices: Sequence[Any]) -> list[list[int]]:
    """Returns for each slice the places in the mesh by the number of the device in it.

    Empty where there is one slice.
    """
    found: dict[int, list[int]] = {}
    for place, device in enumerate(devices):
        found.setdefault(getattr(device, "slice_index", 0), []).append(place)
    return [found[index] for index in sorted(found)] if len(found) > 1 else []


def _crossing(
    operation: _Operation, devices: Sequence[Any], slices: Sequence[Sequence[int]]
) -> tuple[str, int, list[list[int]]] | None:
    """Returns kind, bytes and groups of what the hosts of several slices send each other.

    None for what else a device receives. Groups are one device of each slice.
    """
    named = re.search(r'_xla_megascale_transfer_type="(\w+)"', operation.rest)
    if named is None or not slices:
        return None
    result = _ARRAY.search(operation.shape)
    assert result is not None
    size = _bytes(result[0])
    if named[1] != "ONE_TO_ONE":
        kind = named[1].lower().replace("_", "-")
        return kind, size, [list(places) for places in zip(*slices, strict=True)]
    place = {device.id: at for at, device in enumerate(devices)}
    pairs = re.findall(r"\{(\d+)->(\d+)\}", operation.rest)
    pairs = dict.fromkeys((place[int(one)], place[int(other)]) for one, other in pairs)
    return "collective-permute", size, [list(pair) for pair in pairs]


def _bytes(shape: str) -> int:
    """Returns the size of an array, or of all arrays of a tuple."""
    total = 0
    for dtype, sizes in _ARRAY.findall(shape):
        width = re.search(r"\d+$", dtype)
        bits = 8 * _BYTES[dtype] if dtype in _BYTES else int(width[0]) if width else 8
        total += math.prod(int(size) for size in sizes.split(",") if size) * bits // 8
    return total


def _groups(rest: str, kind: str, total: int) -> list[list[int]]:
    """Returns the devices of each group, of so many in all; for collective-permute the pairs."""
    field = "source_target_pairs" if kind == "collective-permute" else "replica_groups"
    if listed := re.search(rf"{field}=\{{(\{{[\d,{{}} ]*\}})\}}", rest):
        return [
            [int(device) for device in group.split(",")]
            for group in re.findall(r"\{([\d,]+)\}", listed[1])
        ]
    if iota := re.search(rf"{field}=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", rest):
        return _counted(iota[3]).reshape(int(iota[1]), int(iota[2])).tolist()
    if named := re.search(
        rf"{field}=mesh\[([^\]]*)\](?:, device_ids=\((\S*)\))?\s*\{{([^}}]*)\}}", rest
    ):
        return _named_groups(named[1], named[2], named[3])
    return [list(range(total))]  # replica_groups={}: all


def _counted(text: str) -> np.ndarray:
    """Returns devices in order: `[2,4]T(1,0)` counts row by row, then transposes; or a list."""
    if counted := re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        sizes = [int(size) for size in counted[1].split(",")]
        axes = counted[2].split(",") if counted[2] else range(len(sizes))
        devices = np.arange(math.prod(sizes)).reshape(sizes)
        return devices.transpose([int(axis) for axis in axes]).reshape(-1)
    return np.array([int(device) for device in re.findall(r"\d+", text)])


def _named_groups(mesh: str, order: str | None, chosen: str) -> list[list[int]]:
    """Returns groups written as axes of a mesh: `'x'=4,'y'=2` and `'y'` or `'x':(1)2`."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    parts: dict[str, list[tuple[int, int]]] = {}
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
        parts.setdefault(name, []).append((int(before or 1), int(size or sizes[name])))
    shape, inside = [], []
    for name, size in sizes.items():
        done = 1
        for before, part in sorted(parts.get(name, [])):
            shape += [before // done, part]
            inside += [False, True]
            done = before * part
        shape.append(size // done)
        inside.append(False)
    outside_first = sorted(range(len(shape)), key=lambda axis: inside[axis])
    devices = np.arange(math.prod(sizes.values())) if order is None else _counted(order)
    devices = devices.reshape(shape).transpose(outside_first)
    group = math.prod(size for size, within in zip(shape, inside, strict=True) if within)
    return devices.reshape(-1, group).tolist()


def _axes(groups: Sequence[Sequence[int]], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the axes of the mesh along which the members of a group differ."""
    sizes = tuple(mesh_shape.values())
    moves = set()
    for group in groups:
        places = np.array(np.unravel_index(np.array(group), sizes))
        moves |= {int(axis) for axis in np.flatnonzero((places != places[:, :1]).any(axis=1))}
    return tuple(name for axis, name in enumerate(mesh_shape) if axis in moves)
