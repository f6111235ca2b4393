"""Step time from the compiler's own schedule and cycle estimates; and the roofline."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from alignjax.planning import collectives, hlo, kernels, topology

MOVES = ("copy-start", "slice-start")  # beside computation
MATMUL = re.compile(r"convolution|dot")
KINDS = ("matmul", "vector", "kernels", "copies", "exposed", "wire")


class Estimate(NamedTuple):
    """Seconds of one run of a program, and where they go.

    matmul, vector: computation. kernels: hand-written ones, whose time is their FLOPs at
    `kernels.EFFICIENCY` of the peak. copies: moves that have no cycles of their own, at HBM's
    speed; of those beside computation, the wait for their end. exposed: waiting for collectives.
    hidden: wire time beside computation. cycles: whether the compiler gave any; without them
    nothing here is meant. slowest: (operation, seconds) of those that take most.
    """

    total: float
    matmul: float
    vector: float
    copies: float
    exposed: float
    hidden: float
    cycles: bool
    slowest: tuple[tuple[str, float], ...] = ()
    kernels: float = 0.0


def _moved(instruction: hlo.Instruction) -> int:
    """Bytes that an asynchronous move takes of HBM: both ways unless an end is in fast memory."""
    source, target = instruction.arrays[:2]
    return (source.in_hbm + target.in_hbm) * target.bytes


class _Place:
    """Where the replay of a computation stands, in seconds from its begin.

    free: when the links ("exposed") and HBM ("copies") are next free. ends: of what runs beside the
    computation, by name: which of the two it has, and until when. due: which it will have, and for
    how many seconds, of what has no operands yet.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.free = {"exposed": 0.0, "copies": 0.0}
        self.ends: dict[str, tuple[str, float]] = {}
        self.due: dict[str, tuple[str, float]] = {}

    def begin(self, kind: str, name: str, seconds: float) -> None:
        self.free[kind] = max(self.now, self.free[kind]) + seconds
        self.ends[name] = kind, self.free[kind]

    def awaited(self, name: str) -> tuple[str, float]:
        """(what is waited for, seconds) at the end of what was begun; none if it was not."""
        kind, end = self.ends.pop(name, ("exposed", self.now))
        return kind, max(end - self.now, 0.0)


class _Replay:
    """The schedule in order: computation takes its cycles, an asynchronous collective or move runs
    beside what is scheduled before its end, one link carries one collective at a time, and HBM
    serves one move at a time."""

    def __init__(
        self,
        program: hlo.Program,
        machine: topology.Machine,
        mesh: Mapping[str, int],
        unknown: float,
    ):
        self.program, self.chip, self.mesh, self.unknown = program, machine.chip, mesh, unknown
        self.sums = dict.fromkeys(KINDS, 0.0)
        self.has_cycles = False
        self.by_source: dict[str, float] = {}
        self.beside = kernels.around(program)
        self._matmul = {
            name: any(x.opcode in ("convolution", "dot") for x in where.values())
            for name, where in program.computations.items()
        }

    def add(self, kind: str, time: float, scale: float) -> float:
        self.sums[kind] += time * scale
        return time

    def started(self, instruction: hlo.Instruction) -> tuple[collectives.Collective, str] | None:
        """(the collective, its chain) that a fusion starts."""
        for name in instruction.called:
            where = self.program.computations.get(name, {})
            for inner in where.values():
                collective = collectives.read(inner, where, name, self.mesh)
                if collective is not None:
                    return collective, inner.attribute(r'chain_id="(\d+)"')
        return None

    def beside_others(self, instruction: hlo.Instruction) -> tuple[str, float]:
        """What an async-start runs beside the computation has, and for how many seconds."""
        total = 0.0
        for name in hlo.beneath(self.program, instruction):
            where = self.program.computations[name]
            for inner in where.values():
                collective = collectives.read(inner, where, name, self.mesh)
                if collective is not None:
                    total += collectives.seconds(collective, self.chip, topology.NETWORK)
        return ("exposed", total) if total else ("copies", self.rows_named(instruction))

    def rows_named(self, instruction: hlo.Instruction) -> float:
        """Seconds in which HBM reads and writes the rows that a gather's or a scatter's data names.

        Their cycles, if there are any, are of what surrounds these moves.
        """
        count = 0
        for name in hlo.beneath(self.program, instruction):
            where = self.program.computations[name]
            for inner in where.values():
                if inner.opcode == "gather":
                    count += inner.bytes
                elif inner.opcode == "scatter" and inner.operands[-1] in where:
                    count += where[inner.operands[-1]].bytes
        return 2 * count / self.chip.bandwidth if self.chip.bandwidth else 0.0

    def ended(self, instruction: hlo.Instruction) -> str:
        """The chain whose end a fusion awaits."""
        for name in instruction.called:
            where = self.program.computations.get(name, {})
            if any("AsyncCollectiveDone" in x.rest for x in where.values()):
                chains = [x.attribute(r'chain_id="(\d+)"') for x in where.values()]
                return next((chain for chain in chains if chain), "")
        return ""

    def computation(self, name: str, scale: float) -> float:
        """Seconds of one run of a computation."""
        where = self.program.computations[name]
        at = _Place()
        for instruction in where.values():
            if instruction.opcode == "while":
                trips = hlo.trips(self.program, where, instruction)
                rounds = self.unknown if trips is None else trips
                body = instruction.attribute(r"body=%([^\s,]+)")
                at.now += rounds * self.computation(body, scale * rounds)
            elif instruction.opcode in ("call", "conditional"):
                inner = [self.computation(n, scale) for n in instruction.called]
                at.now += max(inner, default=0.0)
            elif instruction.opcode in MOVES and self.chip.bandwidth:
                at.begin("copies", instruction.name, _moved(instruction) / self.chip.bandwidth)
            elif instruction.opcode in ("async-start", "async-update"):
                self.step_of_async(at, instruction, scale)
            else:
                self.instruction(at, instruction, where, name, scale)
        return at.now

    def step_of_async(self, at: _Place, instruction: hlo.Instruction, scale: float) -> None:
        """What another core runs: it begins when its operands are there."""
        first = instruction.operands[0] if instruction.operands else ""
        if not first:  # an update brings them
            at.due[instruction.name] = self.beside_others(instruction)
            return
        kind, seconds = at.due.pop(first) if first in at.due else self.beside_others(instruction)
        if seconds:
            self.add("wire", seconds if kind == "exposed" else 0.0, scale)
            at.begin(kind, instruction.name, seconds)
        elif first in at.ends:  # a further step of one that runs
            at.ends[instruction.name] = at.ends.pop(first)

    def instruction(
        self,
        at: _Place,
        instruction: hlo.Instruction,
        where: hlo.Computation,
        name: str,
        scale: float,
    ) -> None:
        """Computation, a collective that it starts, or the wait for one."""
        own = collectives.read(instruction, where, name, self.mesh)
        label = collectives.rendezvous(instruction) or instruction.name
        begun = (own, label) if own else self.started(instruction) if instruction.called else None
        at.now += self.compute(instruction, scale, begun is not None)
        at.now += self.kernel(instruction, where, scale)
        if begun is not None:
            collective, chain = begun
            wire = collectives.seconds(collective, self.chip, topology.NETWORK)
            self.add("wire", wire, scale)
            at.begin("exposed", chain, wire)
            if collective.overlaps:
                return
        elif (
            instruction.opcode == "recv-done"
            and instruction.operands
            and instruction.operands[0] in where
        ):
            chain = collectives.rendezvous(where[instruction.operands[0]])
        elif instruction.opcode.endswith("-done") and instruction.operands:
            chain = instruction.operands[0]
        else:
            chain = self.ended(instruction)
        kind, wait = at.awaited(chain)
        at.now += self.add(kind, wait, scale)

    def note(self, name: str, time: float) -> None:
        self.by_source[name] = self.by_source.get(name, 0.0) + time

    def kernel(self, instruction: hlo.Instruction, where: hlo.Computation, scale: float) -> float:
        """Seconds of a hand-written kernel; its FLOPs, or HBM's speed if that takes longer."""
        call = kernels.read(instruction, where, self.mesh, self.beside)
        if call is None or not self.chip.flops:
            return 0.0
        operand_bytes = sum(where[name].bytes for name in instruction.operands if name in where)
        spent = max(
            call.padded / (kernels.EFFICIENCY * self.chip.flops),
            (operand_bytes + instruction.bytes) / self.chip.bandwidth if call.flops else 0.0,
        )
        self.note(call.name, spent * scale)
        return self.add("kernels", spent, scale)

    def compute(self, instruction: hlo.Instruction, scale: float, moves: bool) -> float:
        """Seconds of an instruction's own work."""
        cycles = instruction.attribute(r'"estimated_cycles":"(\d+)"')
        if cycles and self.chip.clock:
            self.has_cycles = True
            matmul = MATMUL.search(instruction.opcode) or any(
                self._matmul.get(n) for n in instruction.called
            )
            kind = "matmul" if matmul else "vector"
            spent = max(int(cycles) / self.chip.clock, self.rows_named(instruction))
            self.note(instruction.source or instruction.opcode, spent * scale)
            return self.add(kind, spent, scale)
        if instruction.opcode == "copy" and not moves and self.chip.bandwidth:
            return self.add("copies", 2 * instruction.bytes / self.chip.bandwidth, scale)
        return 0.0


def replay(
    program: hlo.Program, machine: topology.Machine, mesh: Mapping[str, int], unknown: float = 1.0
) -> Estimate:
    """The program's time by the compiler's cycles; of loops that data ends, `unknown` rounds."""
    run = _Replay(program, machine, mesh, unknown)
    total = run.computation(program.entry, 1.0)
    sums = run.sums
    hidden = max(sums.pop("wire") - sums["exposed"], 0.0)
    slowest = sorted(run.by_source.items(), key=lambda pair: -pair[1])[:6]
    return Estimate(total, **sums, hidden=hidden, cycles=run.has_cycles, slowest=tuple(slowest))


def roofline(chip: topology.Chip, flops: float, hbm_bytes: float, wire_seconds: float) -> float:
    """The least seconds: the largest of computing, reading HBM once and the wire; 0 if unknown."""
    if not chip.flops:
        return 0.0
    return max(flops / chip.flops, hbm_bytes / chip.bandwidth, wire_seconds)
