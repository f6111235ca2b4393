"""How gradients leave: by reduce-scatter, or by an all-reduce that every device keeps whole."""

from collections.abc import Mapping
from typing import NamedTuple

from alignjax.planning import collectives, hlo

BACKWARD = "transpose(jvp"  # of the operations that JAX's reverse mode makes
MOVES = ("get-tuple-element", "bitcast", "copy", "convert", "all-reduce-done", "copy-done")


class Leaving(NamedTuple):
    """Wire bytes of a device, of all sums over the batch's axes that the backward pass makes.

    scattered: by reduce-scatter. sliced: by all-reduce, of which each device then reads a slice
    alone: twice the bytes that are needed. whole: by all-reduce, and used whole.
    """

    scattered: float
    sliced: float
    whole: float


def is_sliced(program: hlo.Program, where: hlo.Computation, instruction: hlo.Instruction) -> bool:
    """Whether all that reads an array reads a part of it that the device chooses."""
    uses: dict[str, list[hlo.Instruction]] = {}
    for one in where.values():
        for operand in one.operands:
            uses.setdefault(operand, []).append(one)

    def reads_part(name: str, depth: int = 0) -> bool:
        readers = uses.get(name, [])
        return bool(readers) and depth < 8 and all(_reads_part(name, r, depth) for r in readers)

    def _reads_part(name: str, reader: hlo.Instruction, depth: int) -> bool:
        if reader.opcode == "dynamic-slice":
            return reader.operands[0] == name
        if reader.opcode in MOVES:
            return reads_part(reader.name, depth + 1)
        inner = program.computations.get(reader.called[0]) if reader.called else None
        if reader.opcode not in ("fusion", "call") or inner is None:
            return False
        places = {i for i, operand in enumerate(reader.operands) if operand == name}
        parameters = [
            x for x in inner.values() if x.opcode == "parameter" and int(x.literal) in places
        ]
        return bool(parameters) and all(is_sliced(program, inner, x) for x in parameters)

    return reads_part(instruction.name)


def leaving(program: hlo.Program, mesh: Mapping[str, int], unknown: float = 1.0) -> Leaving:
    """The sums of the backward pass over the axes that share the batch."""
    wires = {"scattered": 0.0, "sliced": 0.0, "whole": 0.0}
    for name, times in hlo.visits(program, unknown).items():
        where = program.computations[name]
        for instruction in where.values():
            collective = collectives.read(instruction, where, name, mesh)
            if (
                collective is None
                or collective.devices == 1
                or not _is_gradient(collective, instruction, program, name)
            ):
                continue
            if collective.kind == "reduce-scatter":
                wires["scattered"] += times * collective.wire
                continue
            # Several sums are joined to one collective; each result has readers of its own.
            cut = sum(
                size for one, size in _results(where, instruction) if is_sliced(program, where, one)
            )
            share = cut / max(instruction.bytes, 1)
            wires["sliced"] += times * collective.wire * share
            wires["whole"] += times * collective.wire * (1 - share)
    return Leaving(**wires)


def _results(
    where: hlo.Computation, instruction: hlo.Instruction
) -> list[tuple[hlo.Instruction, int]]:
    """(what stands for a result, its bytes) of every result of a collective."""
    if len(instruction.arrays) == 1:
        return [(instruction, instruction.bytes)]
    parts = [
        x
        for x in where.values()
        if x.opcode == "get-tuple-element" and instruction.name in x.operands
    ]
    return [(part, part.bytes) for part in parts]


def _is_gradient(
    collective: collectives.Collective,
    instruction: hlo.Instruction,
    program: hlo.Program,
    name: str,
) -> bool:
    over = set(collective.axes.split("+")) & {"data", "replica", "expert", "?"}
    if collective.kind not in ("all-reduce", "reduce-scatter") or not over:
        return False
    if instruction.source:
        return BACKWARD in instruction.source
    callers = (x for where in program.computations.values() for x in where.values())
    return any(BACKWARD in x.source for x in callers if name in x.called)  # a fusion has the name
