"""Online DPO: each step's pairs are the policy's own samples, ordered by a reward or a judge."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.algorithms import dpo
from alignjax.core import mean, shapes
from alignjax.evals import evaluator, pass_rate, policy
from alignjax.models import model as models
from alignjax.rewards import learned
from alignjax.rollouts import collection, compared, programs, rollouts
from alignjax.rollouts import compared_collection as comparing
from alignjax.training import algorithm, method, program, update

# Fields of every method on samples that are compared; they are no options of a recipe.
COMPARED = tuple(field.name for field in dataclasses.fields(compared.ComparedConfig))


@dataclasses.dataclass(kw_only=True)
class OnlineDpoConfig(compared.ComparedConfig, dpo.DpoConfig):
    """A loss on pairs of the policy's own samples (Guo et al. 2024).

    The loss is any of `dpo.DpoConfig` that reads nothing but pairs. Ties weigh 0 and are counted.
    """

    WITHOUT = dpo.DpoConfig.WITHOUT | {"gold", "shift", "ties", "accuracies", "margin"}
    OWN = (*COMPARED, "group", "pairs")

    group: int = 2  # K, samples of each prompt
    pairs: str = "extremes"  # extremes (the best against the worst) | all (every two that differ)

    def validate(self) -> None:
        self.validate_compared()
        shapes.check_choice("algorithm.pairs", self.pairs, compared.PAIRS)
        if self.group < 2:
            raise ValueError(
                f"algorithm.group must be at least 2: one answer has nothing to be compared with; "
                f"got {self.group} (algorithm). Set 2."
            )
        dpo.DpoConfig.validate(self)
        if self.recipe.coupled:
            raise ValueError(
                f"algorithm.method must not sort a batch, in which ties would take part; got "
                f"{self.method} (algorithm). Take another loss."
            )

    def formula(self) -> str:
        own = f"{self.pairs} of {self.group} samples a prompt, ties out of the mean"
        return f"{super().formula()}; {own}; {self.echo_compared()}"


def online_dpo(
    model: models.Model,
    config: OnlineDpoConfig,
    *,
    reward: learned.RewardFn,
    eos: int | Sequence[int],
    pad: int,
    reference: models.Model | None = None,
    micro_batches: int = 1,
    task: method.Task | None = None,
) -> algorithm.Algorithm:
    """Minimises a loss on pairs of samples drawn from the policy at every step.

    Batch: a table of prompts. Frozen: "reference" if the loss compares with one, and what `reward`
    reads. K samples of each prompt become one pair, the best and the worst, or all pairs whose
    rewards differ; the loss is `dpo.dpo` on them, a mean over pairs, and no gradient passes the
    sampler. Ties weigh 0; a step of ties only changes nothing but the optimizer's moments, and
    `patience` of them in a row end the run.
    Reference: Guo et al. 2024 (OAIF), arXiv 2402.04792, algorithm 1; XPO's and RSO's pairs are of
    this kind.
    """
    config.validate()
    plain = dpo.dpo(model, config, reference=reference, micro_batches=micro_batches)
    draw = collection.Draw(model, config.sampling, reward, eos, pad)

    def rows(
        params: models.Params,
        frozen: models.Frozen,
        samples: rollouts.Rollouts,
        rewards: jax.Array,
        valid: jax.Array,
    ) -> tuple[dict[str, jax.Array], jax.Array, dict[str, mean.Mean]]:
        pairs = compared.PAIRS[config.pairs](rewards, valid)
        table = compared.as_pairs(samples, pairs)
        annotate = plain.annotate
        if annotate is not None:
            table |= update.in_chunks(lambda part: annotate(frozen, part), table, micro_batches)
        return table, jnp.any(pairs.mask, axis=1), {}

    def first(batch: algorithm.Batch) -> dict[str, algorithm.Expected]:
        some = bool(jnp.any(batch["pair_mask"]))  # of ties only the loss is 0
        return dict(plain.first(batch)) if some else {}

    def planned(shapes: program.Shapes) -> list[program.Program]:
        rows = shapes.batch["prompts"].shape[0] * config.group
        return [programs.generation(shapes, draw, shapes.params, rows, config.group)]

    samples = collection.make_draw(draw, config.group)
    return algorithm.Algorithm(
        init=plain.init,
        loss=plain.loss,
        collect=comparing.Collector(samples, rows, config, config.group, task),
        carry=comparing.start_carry(),
        first=first,
        programs=comparing.make_programs(
            planned, config, rows, config.group, plain.annotate_passes, chunks=micro_batches
        ),
        passes=plain.passes,
    )


def evaluators(config: compared.ComparedConfig) -> tuple[evaluator.Evaluator, ...]:
    """What judges a policy that was trained on samples compared with one another."""
    if config.reward == compared.JUDGE:  # evaluations ask nobody
        return (policy.SAMPLES,)
    return pass_rate.of_config(config)


def roles(config: compared.ComparedConfig, *, reference: bool = True) -> dict[str, method.Role]:
    """A policy, its reference and a reward model; reference: whether training reads it."""
    learns = config.reward == "model"
    return {
        "policy": method.Role(trained=True, source="policy", required=True),
        "reference": method.Role(
            source="reference", otherwise=("policy",), only_evaluated=not reference
        ),
        "reward": method.Role(
            source="reward",
            part=method.SCORER,
            required=learns,
            head=True,
            reads_text=learns,
            only_evaluated=not learns,
        ),
    }


def options(
    networks: Mapping[str, models.Model],
    config: compared.ComparedConfig,
    task: method.Task,
    size: int,
) -> dict[str, Any]:
    """The arguments that methods on `size` compared samples have in common."""
    chunks = task.micro_batches
    return {
        "reward": compared.reward_of(config, networks, task, size=size, chunks=chunks),
        "eos": task.ends,
        "pad": task.pad,
        "reference": method.another(networks, "reference", task),
        "micro_batches": chunks,
        "task": task,
    }


OnlineDpoConfig.METHOD = method.Method(
    name="online_dpo",
    make=lambda networks, config, task: online_dpo(
        networks["policy"], config, **options(networks, config, task, config.group)
    ),
    table=lambda config: "prompts",
    roles=lambda config: roles(config, reference=config.has_reference),
    evaluators=evaluators,
    formula=OnlineDpoConfig.formula,
    sampling=lambda config: config.sampling,
    curves=("reward", "tied", "margin"),
)
