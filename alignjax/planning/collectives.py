"""Collectives of compiled programs: kind, mesh axes, bytes, and what waits for them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.planning import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """One collective of one device.

    axes: mesh axes that it runs over, joined by "+"; "?" where its groups are no such set.
    devices: in a group. payload: bytes of the whole array that a group works on (an all-gather's
    result, a reduction's operand). wire: bytes that each device sends on a ring.
    overlaps: whether it is started and awaited by separate instructions.
    """

    kind: str
    axes: str
    devices: int
    payload: float
    wire: float
    overlaps: bool


class Total(NamedTuple):
    """Collectives of a kind over the same axes: how often, payload and wire bytes of a device."""

    kind: str
    axes: str
    times: float
    payload: float
    wire: float
    overlapping: float  # wire bytes of those that may overlap with computation


def _iota(text: str) -> Any:
    """The numbers of "[4,2]T(1,0)": 0, 1, ... in that shape, transposed, in a row; or a list of
    them. None for anything else."""
    if match := re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape = [int(x) for x in match[1].split(",")]
        ids = np.arange(math.prod(shape)).reshape(shape)
        order = [int(x) for x in match[2].split(",")] if match[2] else None
        return ids.transpose(order).reshape(-1)
    if re.fullmatch(r"[\d,]+", text):
        return np.array([int(x) for x in text.split(",")])
    return None


def _groups(instruction: hlo.Instruction) -> list[list[int]]:
    """The groups of devices, numbered as the mesh lists them; empty where there are none."""
    text = instruction.attribute(r"replica_groups=(.*)")
    if pairs := instruction.attribute(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}"):
        return [[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs)]
    if match := re.match(r"mesh\[([^\]]*)\](?:, *device_ids=\(([^{]*)\))? *\{([^}]*)\}", text):
        sizes = {n: int(s) for n, s in re.findall(r"'(\w+)'=(\d+)", match[1])}
        joined = re.findall(r"'(\w+)'", match[3])
        ids = _iota(match[2]) if match[2] else np.arange(math.prod(sizes.values()))
        if not set(joined) <= set(sizes) or ":" in match[3] or ids is None:
            return []
        names = list(sizes)
        order = [names.index(n) for n in names if n not in joined]
        moved = ids.reshape(list(sizes.values())).transpose(
            order + [names.index(n) for n in joined]
        )
        return moved.reshape(-1, math.prod(sizes[n] for n in joined)).tolist()
    if match := re.match(r"\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        ids = _iota(match[2])
        return [] if ids is None else ids.reshape(-1, int(match[1].split(",")[-1])).tolist()
    if match := re.match(r"\{((?:\{[\d,]+\},?)+)\}", text):
        bodies = re.findall(r"\{([\d,]+)\}", match[1])
        return [[int(x) for x in group.split(",")] for group in bodies]
    return []


def _over(groups: Sequence[Sequence[int]], mesh: Mapping[str, int]) -> str:
    """The mesh axes along which the devices of each group differ."""
    names, sizes = list(mesh), list(mesh.values())
    if not groups or max(map(max, groups)) >= math.prod(sizes):
        return "?"
    moving: set[int] = set()
    for group in groups:
        places = np.array(np.unravel_index(np.array(group), sizes))
        moving |= set(np.nonzero((places != places[:, :1]).any(axis=1))[0].tolist())
    return "+".join(names[i] for i in sorted(moving)) or "none"


def kind_of(instruction: hlo.Instruction) -> str:
    """The kind of a collective, its asynchronous start included; empty for anything else."""
    name = instruction.opcode.removesuffix("-start")
    return name if name in KINDS else ""


def is_repeated(instruction: hlo.Instruction) -> bool:
    """Whether it stands for one that was started elsewhere: TPU programs name an asynchronous
    collective again in every fusion that it runs beside, and where it ends."""
    begun = instruction.attribute(r'"async_collective_fusion_config":\{"flag_start":"(-?\d+)"')
    return bool(begun) and begun != "-1"


def rendezvous(instruction: hlo.Instruction) -> str:
    """What joins the two ends of a transfer between slices; empty for anything else."""
    return instruction.attribute(r'_xla_host_transfer_rendezvous="([^"]*)"')


def _across_slices(
    instruction: hlo.Instruction, where: hlo.Computation, mesh: Mapping[str, int]
) -> Collective | None:
    """The collective between slices that the hosts' network carries; None for another send."""
    kind = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"').lower().replace("_", "-")
    if not kind:
        return None
    size = mesh.get("replica", 1)
    payload = float(where[instruction.operands[0]].bytes)
    factor = (2 if kind == "all-reduce" else 1) * (size - 1) / size
    return Collective(kind, "replica", size, payload, factor * payload, True)


def read(
    instruction: hlo.Instruction, where: hlo.Computation, name: str, mesh: Mapping[str, int]
) -> Collective | None:
    """The collective that an instruction of the computation `name` starts; None for others."""
    if instruction.opcode == "send":
        return _across_slices(instruction, where, mesh)
    kind = kind_of(instruction)
    if not kind or is_repeated(instruction):
        return None
    groups = _groups(instruction)
    size = max((len(g) for g in groups), default=0) or math.prod(mesh.values())
    operand_bytes = sum(
        where[operand].bytes for operand in instruction.operands if operand in where
    )
    if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # a fusion that keeps each device's slice of the sum
    payload = float(operand_bytes * (size if kind == "all-gather" else 1))
    share = (size - 1) / size if size else 0.0
    factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)
    started = any(
        "AsyncCollectiveStart" in x.rest for x in where.values() if x.opcode == "custom-call"
    )
    overlaps = instruction.opcode.endswith("-start") or started
    return Collective(kind, _over(groups, mesh), size, payload, factor * payload, overlaps)


def totals(program: hlo.Program, mesh: Mapping[str, int], unknown: float = 1.0) -> list[Total]:
    """All collectives of a program, loops counted, by kind and axes; the largest first."""
    by_kind: dict[tuple[str, str], Any] = {}
    beside = hlo.asynchronous(program)
    for name, times in hlo.visits(program, unknown).items():
        where = program.computations[name]
        for instruction in where.values():
            collective = read(instruction, where, name, mesh)
            if collective is None or collective.devices == 1:
                continue
            sums = by_kind.setdefault((collective.kind, collective.axes), np.zeros(4))
            over = collective.wire if collective.overlaps or name in beside else 0.0
            sums += times * np.array([1.0, collective.payload, collective.wire, over])
    result = [Total(*key, *map(float, sums)) for key, sums in by_kind.items()]
    return sorted(result, key=lambda total: -total.wire)


def seconds(collective: Collective, chip: Any, network: float) -> float:
    """Time on the wire: a ring over the links of every torus dimension that the group may span.

    An axis of n devices is taken to lie along ceil(log4 n) dimensions, at most all; with two links
    each. The replica axis crosses the network between slices.
    """
    if "replica" in collective.axes.split("+"):
        return collective.wire / network
    spans = max(1, min(chip.dims, math.ceil(math.log(max(collective.devices, 2), 4))))
    ways = 2 * spans if chip.dims > 1 else 1
    return collective.wire / (chip.link * ways) if chip.link else 0.0
