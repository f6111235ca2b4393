"""Self-distillation from a sibling: the teacher is the student, shown a sample that worked."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.algorithms import sdft
from alignjax.core import mean, shapes
from alignjax.evals import pass_rate
from alignjax.losses import inputs
from alignjax.models import model as models
from alignjax.parallel import axes
from alignjax.rewards import learned
from alignjax.rollouts import collection, mixed, programs, rollouts, settings
from alignjax.rollouts import reward as rewards
from alignjax.sampling import plan
from alignjax.training import algorithm, method, program


@dataclasses.dataclass(kw_only=True)
class SdpoConfig(settings.ScoringConfig, sdft.SdftConfig):
    """A divergence on the student's samples from its own law after a successful sample.

    Of G samples of a prompt each is taught by the next one whose reward is at least `solved_from`,
    as `sdft` teaches by a demonstration; a sample without such a sibling counts nothing.
    """

    OWN = (
        *sdft.SdftConfig.OWN,
        *(field.name for field in dataclasses.fields(settings.ScoringConfig)),
        "group",
    )
    group: int = 8  # G, samples of each prompt

    def validate(self) -> None:
        """Raises ValueError where an option is wrong."""
        self.validate_reward()
        shapes.check_number("algorithm.group", self.group, minimum=2)
        sdft.SdftConfig.validate(self)

    def formula(self) -> str:
        names = "+".join(self.part_names)
        told = f"group={self.group}, shown a sibling of reward {names} >= {self.solved_from:g}"
        return f"{sdft.SdftConfig.formula(self)}; {told}"


def siblings(solved: jax.Array, group: int) -> tuple[jax.Array, jax.Array]:
    """(the row [R] that teaches each row, whether there is one [R]) of groups of G rows.

    The next solved row of the group, in its cyclic order, other than the row itself.
    """
    grouped = inputs.gathered(solved).reshape(-1, group)
    later = jnp.stack([jnp.roll(grouped, -step, axis=1) for step in range(1, group)], axis=-1)
    number = jnp.arange(group, dtype=jnp.int32)[None]
    place = (number + 1 + jnp.argmax(later, axis=-1)) % group
    start = group * jnp.arange(grouped.shape[0], dtype=jnp.int32)[:, None]
    return (start + place).reshape(-1), jnp.any(later, axis=-1).reshape(-1)


def sdpo(
    model: models.Model,
    config: SdpoConfig,
    *,
    reward: learned.RewardFn,
    eos: int | Sequence[int],
    pad: int,
    prompts: int = 0,
    between: np.ndarray | None = None,
    micro_batches: int = 1,
) -> algorithm.Algorithm:
    """Minimises a divergence of the student from itself after a sample of its own that succeeded.

    Batch: a table of prompts. Frozen: what `reward` reads. prompts: of a batch, 0 where that is not
    known. between, micro_batches: as for `sdft.sdft`.
    Reference: Hübotter et al. 2026 (SDPO).
    """
    config.validate()
    sdft.check_entries(model, config.top_k)
    ids = np.zeros(0, np.int32) if between is None else between
    source = collection.Draw(model, config.sampling, reward, eos, pad)
    draw = collection.make_draw(source, config.group)
    lessons = sdft.make_lessons(model, config, ids, chunks=micro_batches)
    moved = sdft.make_teacher(config)

    @jax.jit
    def choose(
        samples: rollouts.Rollouts, found: jax.Array
    ) -> tuple[sdft.Columns, sdft.Columns, algorithm.Metrics]:
        rows = learned.as_batch(samples)
        solved = jnp.isfinite(found) & (found >= config.solved_from)
        partner, there = siblings(solved, config.group)
        there = axes.shard(there, "batch")
        shown = {name: mixed.taken(rows[name], partner) for name in ("tokens", "segments")}
        own = {**rows, "loss_mask": rows["loss_mask"] & there[:, None]}
        every = jnp.ones_like(there)
        return (
            own,
            shown,
            {
                "reward": mean.masked(
                    jnp.where(jnp.isfinite(found), found, 0.0), jnp.isfinite(found)
                ),
                "solved": mean.masked(solved.astype(jnp.float32), every),
                "taught": mean.masked(there.astype(jnp.float32), every),
            },
        )

    def collect(
        state: algorithm.TrainState, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Batch, algorithm.Carry, algorithm.Metrics]:
        samples, found = draw(state.params, frozen, batch, key, state.step)
        rewards.check_failures(found, config.max_failures)
        rows, shown, metrics = choose(samples, found.reward)
        teacher, carry = moved(state)
        return lessons(model.bind(teacher, frozen), shown, rows), carry, metrics

    def in_shapes(shapes: program.Shapes) -> program.Collected:
        drawn, width = shapes.batch["prompts"].shape
        rows, length = drawn * config.group, width + config.sampling.max_new_tokens
        calls = [programs.generation(shapes, source, shapes.params, rows, config.group)]
        samples = plan.samples(rows, length)
        if config.reward == "model":
            calls.append(programs.scoring(shapes, samples, micro_batches))
        read = program.shapes_of(learned.as_batch, samples)
        arguments = (shapes.bound["policy"], {n: read[n] for n in ("tokens", "segments")}, read)
        parts = (("parameters", arguments[0]), ("batch", arguments[1:]))
        passes = (program.Pass("policy"),)
        calls.append(program.Program("lessons", lessons, arguments, parts, rows, length, passes))
        return program.Collected(tuple(calls), program.shapes_of(lessons, *arguments))

    return algorithm.Algorithm(
        init=algorithm.from_policy(model),
        loss=sdft.make_loss(model, config),
        collect=collect,
        programs=in_shapes,
        plan=algorithm.Plan(rows=prompts * config.group),
        carry=sdft.start_carry(config),
        passes=(program.Pass("policy", trained=True),),
    )


def _make(
    networks: Mapping[str, models.Model], config: SdpoConfig, task: method.Task
) -> algorithm.Algorithm:
    limit = config.sampling.max_new_tokens
    return sdpo(
        networks["policy"],
        config,
        reward=rewards.of_config(config, networks, task, limit=limit, chunks=task.micro_batches),
        eos=task.ends,
        pad=task.pad,
        prompts=task.batch_size,
        between=sdft.ids_of(config, task.speaker),
        micro_batches=task.micro_batches,
    )


def _roles(config: SdpoConfig) -> dict[str, method.Role]:
    learns = config.reward == "model"
    return {
        "policy": method.Role(trained=True, source="policy", required=True),
        "reward": method.Role(
            source="reward",
            part=method.SCORER,
            required=learns,
            head=True,
            reads_text=learns,
            only_evaluated=not learns,
        ),
    }


SdpoConfig.METHOD = method.Method(
    name="sdpo",
    make=_make,
    table=lambda config: "prompts",
    roles=_roles,
    evaluators=pass_rate.of_config,
    formula=SdpoConfig.formula,
    sampling=lambda config: config.sampling,
    curves=("reward", "divergence"),
)
