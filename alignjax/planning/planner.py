"""From an experiment and a machine to what the compiler says of every program."""

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from alignjax.parallel import axes
from alignjax.parallel import mesh as meshes
from alignjax.planning import analytic, gradients, hlo, programs, schedule
from alignjax.planning import collectives as exchanges
from alignjax.planning import flops as counting
from alignjax.planning import memory as memories
from alignjax.planning import topology as machines
from alignjax.runs import experiment
from alignjax.training import program as described

USABLE = 0.975  # of HBM: the runtime keeps some; libtpu's own limits are 97.7% to 98.4%


class Compiled(NamedTuple):
    """What is known of one program. Of one that overflowed: `overflow` alone."""

    name: str
    per_step: int
    tokens: int
    overflow: memories.Overflow | None
    compile_seconds: float
    memory: memories.Memory | None = None
    flops: float = 0.0  # of matrix products of one device, by the compiled program, kernels too
    kernel_flops: float = 0.0  # of `flops`, those of kernels, counted from their operands
    uncounted: tuple[str, ...] = ()  # kernels that nothing is known of
    work: analytic.Work | None = None  # of all devices, by the formulas
    collectives: tuple[exchanges.Total, ...] = ()
    leaving: gradients.Leaving | None = None  # how they leave; of programs with a backward pass
    estimate: schedule.Estimate | None = None
    roofline: float = 0.0  # seconds
    largest: tuple[tuple[str, int], ...] = ()
    stage: str = "run"  # run | evaluation, which another command does | loop evaluation
    limit: float = 0.0  # usable bytes of a device; 0 is not known

    @property
    def seconds(self) -> float:
        """Of one run: the replay of the compiler's cycles, else the roofline."""
        has = self.estimate is not None and self.estimate.cycles
        return self.estimate.total if has and self.estimate else self.roofline

    @property
    def fits(self) -> bool:
        if self.overflow is not None or self.memory is None:
            return False
        return not self.limit or self.memory.total <= self.limit


class Plan(NamedTuple):
    """All programs of a run on a machine."""

    machine: machines.Machine
    method: str
    parameters: int
    mesh: dict[str, int]
    programs: tuple[Compiled, ...]

    @property
    def fits(self) -> bool:
        return all(program.fits for program in self.programs)

    @property
    def devices(self) -> int:
        return len(self.machine.devices)

    @property
    def step_seconds(self) -> float:
        """Of one step; 0 where a program's time is not known."""
        steps = [program for program in self.programs if program.per_step]
        known = all(program.seconds > 0 for program in steps)
        return sum(program.per_step * program.seconds for program in steps) if known else 0.0

    @property
    def basis(self) -> str:
        """What a step's time rests on."""
        steps = [program.estimate for program in self.programs if program.per_step]
        known = all(estimate is not None and estimate.cycles for estimate in steps)
        return "compiler cycles" if known else "roofline"

    @property
    def utilisation(self) -> float:
        """Useful FLOPs over what the devices could do in a step's time; 0 if not known."""
        steps = [program for program in self.programs if program.per_step]
        if not self.step_seconds or any(program.work is None for program in steps):
            return 0.0
        useful = sum(program.per_step * program.work.useful for program in steps if program.work)
        return useful / (self.step_seconds * self.devices * self.machine.chip.flops)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of a step's rows, a second and device; 0 if not known."""
        # Further passes over the same rows read no new tokens: the most that one program reads.
        tokens = max(program.tokens for program in self.programs if program.stage == "run")
        return tokens / (self.step_seconds * self.devices) if self.step_seconds else 0.0


def plan(
    config: experiment.Experiment,
    machine: machines.Machine,
    log: Callable[[str], None],
    *,
    evaluation: bool = False,
) -> Plan:
    """Compiles every program of a run, and of its evaluation if that is asked for. `log` gets a
    line before each and one after it.

    Raises:
      ValueError: the sizes do not fit each other or the machine; nothing was compiled.
    """
    config = programs.without_data(config)
    mesh = meshes.make_mesh(config.mesh, machine.devices)
    with meshes.use(mesh):
        run = programs.build(config, dense=machine.kind != "tpu", evaluation=evaluation)
        sizes = dict(mesh.shape) if mesh is not None else {"data": 1}
        results = []
        for number, call in enumerate(run.calls, 1):
            log(f"{call.name}: compiling, {number} of {len(run.calls)}, for {machine.name}")
            result = examine(call, run, machine, sizes)
            state = "does not fit" if not result.fits else "done"
            log(f"{call.name}: {state}, {result.compile_seconds:.0f} s")
            results.append(result)
    method = config.algorithm.METHOD.name
    count = sum(x.size for x in jax.tree.leaves(run.state.params))
    return Plan(machine, method, count, sizes, tuple(results))


def _compile(lowered: Any, machine: machines.Machine) -> tuple[Any, str]:
    """(the compiled program, its text)."""
    if machine.kind != "tpu":
        compiled = lowered.compile()
        return compiled, compiled.as_text()
    with tempfile.TemporaryDirectory() as folder:
        written = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        options = {**dict(machine.chip.options), **written}
        compiled = lowered.compile(compiler_options=options)
        try:
            return compiled, compiled.as_text()
        except jax.errors.JaxRuntimeError:
            # jaxlib 0.10.2 can't print some of libtpu 0.0.51's programs (v5p's sparse cores). The
            # compiler's own file tells some asynchronous collectives once for each of their steps.
            (file,) = pathlib.Path(folder).glob("*.after_codegen.txt")
            return compiled, file.read_text()


def examine(
    call: programs.Call, run: programs.Run, machine: machines.Machine, mesh: Mapping[str, int]
) -> Compiled:
    """One program, compiled and read."""
    begin = time.monotonic()
    limit = USABLE * machine.chip.hbm
    arguments: Any = call.arguments
    if len(machine.devices) == 1:
        here = SingleDeviceSharding(machine.devices[0])
        arguments = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), arguments
        )
    target = "tpu" if machine.kind == "tpu" else ""
    own = meshes.use(call.mesh) if call.mesh is not None else contextlib.nullcontext()
    with own, axes.on(target), described.columns_told(dict(call.parts).get("batch", {})):
        lowered = call.run.lower(*arguments)
    if call.mesh is not None:
        mesh = dict(call.mesh.shape)
    try:
        compiled, text = _compile(lowered, machine)
    except jax.errors.JaxRuntimeError as error:
        overflow = memories.overflow(str(error))
        if overflow is None:
            raise
        if not overflow.arrays:
            overflow = overflow._replace(arrays=memories.largest_tensors(lowered.as_text()))
        spent = time.monotonic() - begin
        return Compiled(
            call.name, call.per_step, call.tokens, overflow, spent, limit=limit, stage=call.stage
        )
    spent = time.monotonic() - begin
    held = [*run.held, *call.beside]
    if call.stage == "evaluation":  # of another command: nothing of the run is there
        held = []
    elif call.stage == "run" and not call.per_step:  # before the loop: only what is frozen is there
        held = [(name, tree) for name, tree in held if name == "frozen"]
    measured = memories.measure(compiled.memory_analysis(), call.parts, held, call.cache)
    result = Compiled(
        name=call.name,
        per_step=call.per_step,
        tokens=call.tokens,
        overflow=None,
        compile_seconds=spent,
        memory=measured,
        work=call.work,
        largest=tuple(memories.largest_arguments(call.parts)),
        limit=limit,
        stage=call.stage,
    )
    program = hlo.parse(text)
    inside = counting.kernel_flops(program, mesh, call.rounds)
    count = counting.matmul_flops(program, call.rounds) + inside.attention + inside.others
    totals = exchanges.totals(program, mesh, call.rounds)
    return result._replace(
        work=_as_written(call.work, inside.attention * len(machine.devices)),
        flops=count,
        kernel_flops=inside.attention + inside.others,
        uncounted=inside.unknown,
        collectives=tuple(totals),
        leaving=gradients.leaving(program, mesh, call.rounds) if call.name == "update" else None,
        estimate=schedule.replay(program, machine, mesh, call.rounds),
        roofline=_roofline(call, machine, measured, count, totals),
        largest=(*result.largest, *memories.largest_temporaries(program)),
    )


def _as_written(work: analytic.Work | None, attention: float) -> analytic.Work | None:
    """The formula's work, where a kernel does the attention: its own blocks, not all pairs."""
    if work is None or not attention:
        return work
    return work._replace(run=work.run - work.scores + attention, scores=attention)


def _roofline(
    call: programs.Call,
    machine: machines.Machine,
    measured: memories.Memory,
    count: float,
    totals: list[exchanges.Total],
) -> float:
    """The least time of one run: arguments are read once, in a loop once a round, and collectives
    have every link of the device."""
    read = sum(measured.arguments.values()) * call.rounds + measured.outputs
    wires = [
        exchanges.seconds(
            exchanges.Collective(t.kind, t.axes, 4**machine.chip.dims, t.payload, t.wire, True),
            machine.chip,
            machines.NETWORK,
        )
        for t in totals
    ]
    return schedule.roofline(machine.chip, count, read, sum(wires))
