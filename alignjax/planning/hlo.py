"""Compiled programs read from their text: instructions, and how often each computation runs."""

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16}
BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|called_computations|branch_computations|"
    r"true_computation|false_computation)=(\{[^}]*\}|%[^\s,)]+)"
)


class Array(NamedTuple):
    """dtype, sizes, and whether it lies in HBM rather than in a chip's own fast memory."""

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool = True

    @property
    def elements(self) -> int:
        return functools.reduce(lambda a, b: a * b, self.dims, 1)

    @property
    def bytes(self) -> int:
        bits = BITS.get(self.dtype, 8 if self.dtype.startswith("f8") else 0)
        return -(-self.elements * bits // 8)


class Instruction(NamedTuple):
    """One line of a computation; `rest` is what follows the operands."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    literal: str

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in the attributes; empty where it is not found."""
        match = re.search(pattern, self.rest)
        return match[1] if match else ""

    @property
    def called(self) -> tuple[str, ...]:
        names: list[str] = []
        for text in CALLS.findall(self.rest):
            names += re.findall(r"%([^\s,}]+)", text)
        return tuple(names)

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def source(self) -> str:
        """The operation of ours that it came from."""
        return self.attribute(r'op_name="([^"]*)"')


Computation = dict[str, Instruction]  # by name, in the order of the schedule


class Program(NamedTuple):
    """A compiled program: its computations by name, and the name of the one that begins."""

    computations: dict[str, Computation]
    entry: str


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return len(text)


def _instruction(line: str) -> Instruction | None:
    head, equals, tail = line.strip().removeprefix("ROOT ").partition(" = ")
    if not equals or not head.startswith("%"):
        return None
    end = _closing(tail, 0) + 1 if tail.startswith("(") else tail.find(" ")
    opening = tail.find("(", end)
    if opening < 0:
        return None
    closing = _closing(tail, opening)
    inside = tail[opening + 1 : closing]
    arrays = tuple(
        Array(kind, tuple(int(d) for d in dims.split(",") if d), not re.search(r"S\([1-9]", lay))
        for kind, dims, lay in ARRAY.findall(tail[:end])
    )
    return Instruction(
        head[1:],
        tail[end:opening].strip(),
        arrays,
        tuple(re.findall(r"%([^\s,()]+)", inside)),
        tail[closing + 1 :],
        inside if len(inside) < 40 else "",
    )


def parse(text: str) -> Program:
    """The program of `compiled.as_text()`; a kernel's own text may break its line."""
    computations: dict[str, Computation] = {}
    current: Computation | None = None
    # A kernel's metadata stands on lines of its own, the last of which looks like an end.
    text = re.sub(r'=\{\n("[^\n]*)\n\}', r"={\1}", text)
    entry = ""
    for line in text.splitlines():
        if line.endswith("{") and (match := re.match(r"(ENTRY )?%(\S+) ", line)):
            current = computations[match[2]] = {}
            entry = match[2] if match[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _instruction(line)) is not None:
            current[instruction.name] = instruction
    return Program(computations, entry)


def _constant(computation: Computation, name: str) -> int | None:
    """The integer that a name stands for, through copies; None where it is not a constant."""
    for _ in range(8):
        instruction = computation.get(name)
        if instruction is None:
            return None
        if instruction.opcode == "constant":
            return int(instruction.literal) if re.fullmatch(r"-?\d+", instruction.literal) else None
        if instruction.opcode not in ("copy", "bitcast", "convert") or not instruction.operands:
            return None
        name = instruction.operands[0]
    return None


def _limit(program: Program, condition: Computation) -> int | None:
    """The constant of `counter < constant and counter < data`, for a counter from 0."""
    last = list(condition.values())[-1]
    fused = last.opcode == "fusion" and bool(last.called)
    inner = program.computations[last.called[0]] if fused else condition
    both = list(inner.values())[-1]
    compared = [inner[name] for name in both.operands if name in inner]
    if both.opcode != "and" or [x.opcode for x in compared] != ["compare", "compare"]:
        return None
    if any("direction=LT" not in x.rest for x in compared):
        return None
    if compared[0].operands[0] != compared[1].operands[0]:
        return None
    limits = [_constant(inner, x.operands[1]) for x in compared]
    limits += [_constant(condition, name) for name in last.operands] if fused else []
    return min((x for x in limits if x is not None), default=None)


def trips(program: Program, where: Computation, loop: Instruction) -> int | None:
    """How often a loop's body runs, at most; None where the data decides without a limit.

    The compiler's own count where the text has it, else from a condition `counter < constant`, with
    or without a second comparison of the counter.
    """
    if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    condition = program.computations[loop.attribute(r"condition=%([^\s,]+)")]
    if (most := _limit(program, condition)) is not None:
        return most
    last = list(condition.values())[-1]
    if last.opcode == "fusion" and last.called:  # the comparison was fused
        inner = program.computations[last.called[0]]
        compared = [x for x in inner.values() if x.opcode == "compare"]
        outer = [c for n in last.operands if (c := _constant(condition, n)) is not None]
        if len(compared) != 1 or len(inner) > 4 or not outer:
            return None
        last, limit = compared[0], outer[-1]
    else:
        if last.opcode != "compare" or "direction=LT" not in last.rest:
            return None
        value = _constant(condition, last.operands[1])
        if value is None:
            return None
        limit = value
    begin = 0
    if (initial := where.get(loop.operands[0])) is not None and initial.opcode == "tuple":
        counter = condition.get(last.operands[0])
        index = counter.attribute(r"index=(\d+)") if counter is not None else ""
        begin = _constant(where, initial.operands[int(index or 0)]) or 0
    return max(limit - begin, 0)


def visits(program: Program, unknown: float = 1.0) -> dict[str, float]:
    """How often each computation runs; loops that the data ends take `unknown` rounds.

    Of a conditional's branches all are counted: an upper bound.
    """
    counts: dict[str, float] = {}

    def enter(name: str, times: float) -> None:
        counts[name] = counts.get(name, 0.0) + times
        here = program.computations[name]
        for instruction in here.values():
            if instruction.opcode == "while":
                count = trips(program, here, instruction)
                rounds = unknown if count is None else count
                enter(instruction.attribute(r"body=%([^\s,]+)"), times * rounds)
            elif instruction.opcode not in (
                "reduce",
                "all-reduce",
                "reduce-scatter",
                "sort",
                "scatter",
            ):
                for called in instruction.called:
                    if called in program.computations:
                        enter(called, times)

    enter(program.entry, 1.0)
    return counts


def beneath(program: Program, instruction: Instruction) -> Iterator[str]:
    """The computations that an instruction calls, and those that these call."""
    for name in instruction.called:
        if name in program.computations:
            yield name
            for inner in program.computations[name].values():
                yield from beneath(program, inner)


def asynchronous(program: Program) -> set[str]:
    """The computations that run beside others, as on a v5p's sparse cores."""
    return {
        name
        for where in program.computations.values()
        for instruction in where.values()
        if instruction.opcode == "async-start"
        for name in beneath(program, instruction)
    }


def every(program: Program, unknown: float = 1.0) -> Iterator[tuple[Computation, Instruction, str]]:
    """(its computation, instruction, the computation's name) of all that is reached."""
    for name in visits(program, unknown):
        for instruction in program.computations[name].values():
            yield program.computations[name], instruction, name
