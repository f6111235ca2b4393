"""Meshes, micro-batches and recomputation tried for one run: what fits, and what is fastest."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from alignjax.models import config as model_config
from alignjax.parallel import mesh as meshes
from alignjax.planning import analytic, memory, planner, programs
from alignjax.planning import topology as machines
from alignjax.runs import experiment

MICRO = (1, 2, 4, 8, 16, 32)
AGAIN = {"none": 1.0, "full": 4 / 3}  # compute of a step with what is done twice; others between
BETWEEN = 1.1


class Choice(NamedTuple):
    """One way to run. mesh: sizes by axis."""

    mesh: tuple[tuple[str, int], ...]
    micro_batches: int
    remat: str

    def over(self, config: experiment.Experiment) -> experiment.Experiment:
        """The experiment run in this way."""
        return dataclasses.replace(
            config,
            mesh=dataclasses.replace(config.mesh, **dict(self.mesh)),
            loop=dataclasses.replace(config.loop, micro_batches=self.micro_batches),
            model=dataclasses.replace(config.model, remat=self.remat),  # type: ignore[type-var]
        )

    def options(self) -> str:
        """What to write on a command line."""
        words = [f"--config.mesh.{name}={size}" for name, size in self.mesh]
        words += [f"--config.loop.micro_batches={self.micro_batches}"]
        return " ".join([*words, f"--config.model.remat={self.remat}"])


class Guess(NamedTuple):
    """By arithmetic alone. least: bytes of a device, a lower bound. likely: the same, roughly.
    seconds: of a step, roughly: to order by."""

    choice: Choice
    least: float
    likely: float
    seconds: float


class Attempt(NamedTuple):
    """One choice whose update was compiled. program is None where it was refused, for `reason`."""

    choice: Choice
    guess: Guess
    program: planner.Compiled | None
    reason: str
    utilisation: float

    @property
    def fits(self) -> bool:
        return self.program is not None and self.program.fits


class Sweep(NamedTuple):
    """considered: choices whose sizes divide. pruned: of them, those that can't fit by arithmetic.
    skipped: those left out because a better one of the same mesh fits, or a smaller one does not.
    untried: those that the limit of compiles left out. tried: the rest, best first."""

    machine: machines.Machine
    considered: int
    pruned: int
    skipped: int
    untried: int
    tried: tuple[Attempt, ...]

    @property
    def best(self) -> Attempt | None:
        """The fastest that fits; where no times are known the one that needs least memory."""
        return self.tried[0] if self.tried and self.tried[0].fits else None


class _Sizes(NamedTuple):
    """Of the run on no mesh: bytes of trees, rows of an update, work."""

    shape: model_config.TransformerConfig
    params: int
    others: int  # optimizer and frozen trees
    routed: float  # share of the weights that stand in experts
    rows: int  # of the model, of one update
    length: int
    batch: int  # rows of the data, of one update
    useful: float


def sizes_of(config: experiment.Experiment) -> _Sizes:
    """Shapes alone: nothing is compiled."""
    run = programs.build(config)
    update = next(call for call in run.calls if call.name == "update")
    batch = dict(update.parts)["batch"]["tokens"]
    shape: Any = run.shape
    moe = shape.moe
    params = memory.tree_bytes(run.state.params)
    others = memory.tree_bytes(run.state.opt_state) + memory.tree_bytes(run.frozen)
    sparse = sum(len(numbers) for has, numbers in shape.stacks() if has)
    routed = sparse * 3 * shape.width * moe.ff * moe.experts
    count = sum(x.size for x in jax.tree.leaves(run.state.params))
    useful = update.work.useful if update.work else 6.0 * count * update.tokens
    length = batch.shape[-1]
    rows = math.prod(batch.shape[:-1])
    share = min(routed / max(count, 1), 1.0)
    return _Sizes(shape, params, others, share, rows, length, batch.shape[0], useful)


def divisors(count: int) -> list[int]:
    """All of them, ascending."""
    return [d for d in range(1, count + 1) if count % d == 0]


def mesh_choices(
    sizes: _Sizes, config: experiment.Experiment, machine: machines.Machine
) -> Iterator[dict[str, int]]:
    """Meshes that multiply to the machine and divide the model."""
    shape, known = sizes.shape, {f.name for f in dataclasses.fields(meshes.MeshConfig)}
    within = len(machine.devices) // machine.slices
    wide = [shape.kv_heads, shape.ff, shape.vocab_size]
    wide += [shape.wide.kv_heads, shape.lent.ff, shape.layer_inputs]
    if shape.moe.experts:
        wide += [shape.moe.ff, shape.moe.shared_ff]
    for model in divisors(within):
        if any(size % model for size in wide):
            continue
        for expert in divisors(within // model):
            if expert > 1 and (not shape.moe.experts or shape.moe.experts % expert):
                continue
            for seq in divisors(within // (model * expert)):
                data = within // (model * expert * seq)
                long = sizes.length % seq == 0 and sizes.length // seq >= 128 and "seq" in known
                if (seq > 1 and not long) or shape.width % data:
                    continue
                axis_sizes = {"replica": machine.slices, "data": data, "model": model}
                axis_sizes |= {"expert": expert} if expert > 1 or config.mesh.expert != 1 else {}
                yield axis_sizes | ({"seq": seq} if "seq" in known else {})


def guesses(sizes: _Sizes, config: experiment.Experiment, machine: machines.Machine) -> list[Guess]:
    """All choices whose sizes divide, fastest first by arithmetic."""
    result = []
    for mesh in mesh_choices(sizes, config, machine):
        shards = mesh["replica"] * mesh["data"] * mesh.get("expert", 1)
        for micro in MICRO:
            if sizes.batch % micro or (sizes.batch // micro) % shards:
                continue
            for remat in model_config.REMAT:
                choice = Choice(tuple(mesh.items()), micro, remat)
                result.append(_guess(sizes, choice, mesh, machine))
    limit = planner.USABLE * machine.chip.hbm or math.inf
    return sorted(result, key=lambda guess: (guess.likely > limit, guess.seconds))


def _guess(sizes: _Sizes, choice: Choice, mesh: dict[str, int], machine: machines.Machine) -> Guess:
    shape = sizes.shape
    model, seq, expert = mesh["model"], mesh.get("seq", 1), mesh.get("expert", 1)
    held = (1 - sizes.routed + sizes.routed / expert) / (mesh["data"] * model)
    state = (2 * sizes.params + sizes.others) * held  # gradients are as large as weights
    rows = sizes.rows / (mesh["replica"] * mesh["data"] * expert * choice.micro_batches)
    tokens, wide = rows * sizes.length / seq, 2 if shape.compute_dtype == "bfloat16" else 4
    kept, used = _kept(shape, choice.remat, model)
    written = 0 if machine.kind == "tpu" else 3 * shape.heads * sizes.length / model  # scores
    least = state + wide * tokens * shape.layers * kept
    layers = shape.layers if choice.remat == "none" else 1
    likely = state + wide * tokens * (shape.layers * kept + layers * (used + written))
    seconds = _seconds(sizes, choice, mesh, machine, wide * tokens)
    return Guess(choice, least, likely, seconds)


def _kept(shape: model_config.TransformerConfig, remat: str, model: int) -> tuple[float, float]:
    """Numbers of one token and layer: (kept until the backward pass at least, used on the way)."""
    heads, ff = shape.heads * shape.head_dim / model, shape.ff / model
    inner = 2 * heads + 2 * ff
    more = {"none": inner, "dots": inner, "heads": 2 * heads, "attention": heads}.get(remat, 0.0)
    return shape.width + more, 8 * shape.width + 4 * heads + 6 * ff


def _seconds(
    sizes: _Sizes,
    choice: Choice,
    mesh: dict[str, int],
    machine: machines.Machine,
    token_bytes: float,
) -> float:
    """Computing, and half of what moves: weights gathered over data, gradients summed over seq,
    keys gathered over it, activations summed over model and exchanged between experts."""
    shape, chip, micro = sizes.shape, machine.chip, choice.micro_batches
    model, seq, expert = mesh["model"], mesh.get("seq", 1), mesh.get("expert", 1)
    compute = AGAIN.get(choice.remat, BETWEEN) * sizes.useful
    compute /= len(machine.devices) * (chip.flops or 1e12)
    passes = 2 if choice.remat == "none" else 3
    held = (1 - sizes.routed + sizes.routed / expert) / model
    weights = 2.0 * analytic.parameters(shape) * held
    moved = micro * (passes + 2) * weights * (1 - 1 / mesh["data"])
    moved += micro * 4 * weights / mesh["data"] * (1 - 1 / seq)
    keys = 2 * shape.kv_heads * shape.head_dim / model
    moved += micro * passes * shape.layers * token_bytes * keys * (seq - 1)
    gathered = micro * (passes + 1) * shape.layers * token_bytes * shape.width
    moved += gathered * (4.0 * (1 - 1 / model) + 2 * (expert - 1))
    return compute + 0.5 * moved / (2.0 * chip.dims * chip.link or 1e11)


def sweep(
    config: experiment.Experiment,
    machine: machines.Machine,
    log: Callable[[str], None],
    *,
    compiles: int = 12,
) -> Sweep:
    """Compiles the update of the choices that may fit, fastest by arithmetic first.

    Of one mesh it goes on until one fits: the rest of that mesh is slower, and what needs more
    than one that does not fit does not fit either. At most `compiles` programs are compiled.

    Raises:
      ValueError: the configuration is wrong, or no choice divides it.
    """
    config = programs.without_data(config)
    single = dataclasses.replace(config, mesh=meshes.MeshConfig())
    sizes = sizes_of(single)
    every = guesses(sizes, config, machine)
    if not every:
        raise ValueError(
            f"--sweep must find a mesh of {len(machine.devices)} devices that divides the run; got "
            f"none for loop.batch_size={config.loop.batch_size}, {sizes.shape.kv_heads} key heads, "
            f"width {sizes.shape.width}. Change the batch or the topology."
        )
    limit = planner.USABLE * machine.chip.hbm or math.inf
    remaining = [guess for guess in every if guess.least <= limit]
    pruned, skipped = len(every) - len(remaining), 0
    log(f"sweep: {len(every)} choices divide; {pruned} can't fit by arithmetic")
    tried: list[Attempt] = []
    while remaining and len(tried) < compiles:
        guess = remaining.pop(0)
        log(f"sweep: {len(tried) + 1} of at most {compiles}: {guess.choice.options()}")
        attempt = compile_choice(config, machine, guess)
        tried.append(attempt)
        same = [other for other in remaining if other.choice.mesh == guess.choice.mesh]
        dropped = same if attempt.fits else [other for other in same if _needs_more(other, guess)]
        skipped += len(dropped)
        remaining = [other for other in remaining if other not in dropped]
    tried.sort(key=lambda attempt: _rank(attempt, machine))
    return Sweep(machine, len(every), pruned, skipped, len(remaining), tuple(tried))


def _needs_more(one: Guess, other: Guess) -> bool:
    """Whether a choice of the same mesh keeps at least what another one does."""
    order = model_config.REMAT.index  # from what keeps all to what keeps least
    bigger = one.choice.micro_batches <= other.choice.micro_batches
    return bigger and order(one.choice.remat) <= order(other.choice.remat)


def compile_choice(
    config: experiment.Experiment, machine: machines.Machine, guess: Guess
) -> Attempt:
    """One choice, its update compiled."""
    mine = guess.choice.over(config)
    try:
        mesh = meshes.make_mesh(mine.mesh, machine.devices)
        with meshes.use(mesh):
            run = programs.build(mine, dense=machine.kind != "tpu")
            call = next(call for call in run.calls if call.name == "update")
            sizes = dict(mesh.shape) if mesh is not None else {"data": 1}
            program = planner.examine(call, run, machine, sizes)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        return Attempt(guess.choice, guess, None, " ".join(str(error).split())[:200], 0.0)
    used = 0.0
    if call.work and program.seconds:
        peak = len(machine.devices) * machine.chip.flops
        used = call.work.useful / (program.seconds * peak)
    return Attempt(guess.choice, guess, program, "", used)


def _rank(attempt: Attempt, machine: machines.Machine) -> tuple[Any, ...]:
    if attempt.program is None or attempt.program.memory is None:
        return (2, 0.0, 0.0)
    return (0 if attempt.fits else 1, attempt.program.seconds, attempt.program.memory.total)
