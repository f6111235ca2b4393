"""Exploratory preference optimization: online DPO against the reference's samples, and optimism."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from alignjax.algorithms import dpo, online_dpo, preset
from alignjax.core import mean, shapes
from alignjax.models import model as models
from alignjax.rewards import learned
from alignjax.rollouts import collection, compared, rollouts
from alignjax.rollouts import compared_collection as comparing
from alignjax.training import algorithm, method, program, update

SIZE = 2  # samples of a prompt: the policy's, then the reference's


@dataclasses.dataclass(kw_only=True)
class XpoConfig(compared.ComparedConfig, preset.PresetConfig):
    """A pair of a sample of the policy and one of the reference, and the reference's likelihood.

    Ties weigh 0, in the second term too.
    """

    TABLE = "rollouts"
    WITHOUT = frozenset({"advantages", "preferences", "values", "old", "token_weights", "key"})
    MUST = frozenset({"preferred"})
    OWN = online_dpo.COMPARED

    method: str = "xpo"
    compat: str = "paper"  # whose defaults
    beta: float | None = None  # strength of the pull to the reference, per nat of log-ratio
    optimism: float | None = None  # alpha: weight of log pi of the reference's sample
    link: str | None = None  # dpo | ipo: the loss on the pair

    def validate(self) -> None:
        self.validate_compared()
        self.check_whole_distribution("the bonus")
        if self.beta is not None:
            shapes.check_number("algorithm.beta", self.beta, above=0)
        try:
            jax.eval_shape(self.terms, _columns(*_example()))
        except ValueError as error:
            raise ValueError(f"{error} (algorithm)") from None

    def formula(self) -> str:
        return f"{super().formula()}; ties out of the mean; {self.echo_compared()}"


def _example() -> tuple[algorithm.Batch, jax.Array]:
    """(two rows of pairs, log-probabilities)."""
    wide = jnp.zeros((2, SIZE, 4), jnp.float32)
    order = jnp.zeros((2, 1, 2), jnp.int32)
    batch = {
        "loss_mask": wide == 0,
        "segments": jnp.ones(wide.shape, jnp.int32),
        "reference_logprobs": wide,
        "preferred": order,
        "pair_mask": order[:, :, 0] == 0,
    }
    return batch, wide


def _columns(batch: algorithm.Batch, logprobs: jax.Array) -> dict[str, jax.Array]:
    """What the recipe reads of a table of pairs and the policy's log-probabilities [P, 2, T]."""
    counts = batch["pair_mask"][:, 0]
    mask = batch["loss_mask"] & counts[:, None, None]
    reference = batch["reference_logprobs"]
    return {
        "logprobs": logprobs[:, 0],
        "reference_logprobs": reference[:, 0],
        "mask": mask[:, 0],
        "other_logprobs": logprobs[:, 1],
        "reference_other_logprobs": reference[:, 1],
        "other_mask": mask[:, 1],
        "preferred": batch["preferred"][:, 0, 0] == 0,
        "row_mask": counts,
    }


def xpo(
    model: models.Model,
    config: XpoConfig,
    *,
    reward: learned.RewardFn,
    eos: int | Sequence[int],
    pad: int,
    reference: models.Model | None = None,
    micro_batches: int = 1,
    task: method.Task | None = None,
) -> algorithm.Algorithm:
    """Minimises -log sigmoid(beta (chosen - rejected)) + alpha log pi(y~ | x), y~ of the reference.

    Batch: a table of prompts. Frozen: "reference", and what `reward` reads. Each prompt is answered
    once by the policy and once by the reference, and the better answer is chosen; the second term
    moves mass away from what the reference says already, so that the policy explores. Log-ratios
    are sums over tokens, losses means over prompts whose answers differ in reward.
    Reference: Xie et al. 2024, arXiv 2405.21046, algorithm 1.
    """
    config.validate()
    second = model if reference is None else reference
    draw = collection.Draw(model, config.sampling, reward, eos, pad)

    def annotate(frozen: models.Frozen, batch: algorithm.Batch) -> dict[str, jax.Array]:
        stats, _ = dpo.answer_stats(second, second.bind(frozen["reference"], frozen), batch)
        return {"reference_logprobs": stats.logprob}

    def rows(
        params: models.Params,
        frozen: models.Frozen,
        samples: rollouts.Rollouts,
        rewards: jax.Array,
        valid: jax.Array,
    ) -> tuple[dict[str, jax.Array], jax.Array, dict[str, mean.Mean]]:
        table = compared.as_pairs(samples, compared.every(rewards, valid))
        table |= update.in_chunks(lambda part: annotate(frozen, part), table, micro_batches)
        counts = table["pair_mask"][:, 0]
        won = mean.masked(table["preferred"][:, 0, 0] == 0, counts)
        return table, counts, {"win_rate": won}

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        stats, penalties = dpo.answer_stats(model, model.bind(params, frozen, key), batch)
        arrays = _columns(batch, stats.logprob)
        ratio = jnp.sum(
            jnp.where(batch["loss_mask"], stats.logprob - batch["reference_logprobs"], 0.0), axis=2
        )
        terms = {**config.terms(arrays), **penalties}
        return terms, {**terms, "kl": mean.of(ratio[:, 0]), "reference_ratio": mean.of(ratio[:, 1])}

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        if model.drops_out or reference is not None:
            return {}
        return {"kl": algorithm.no_kl(model.rounding, batch["tokens"].shape[-1])}

    def planned(shapes: program.Shapes) -> list[program.Program]:
        parts = (("frozen", shapes.frozen),)
        return comparing.generations(shapes, draw, second, shapes.bound["reference"], parts)

    duel = comparing.make_duel(
        draw, second, lambda params, frozen: second.bind(frozen["reference"], frozen)
    )
    return algorithm.Algorithm(
        init=algorithm.from_policy(model),
        loss=loss,
        collect=comparing.Collector(duel, rows, config, SIZE, task),
        carry=comparing.start_carry(),
        first=first,
        programs=comparing.make_programs(
            planned, config, rows, SIZE, (program.Pass("reference"),), chunks=micro_batches
        ),
        passes=(program.Pass("policy", trained=True),),
    )


def _make(
    networks: Mapping[str, models.Model], config: XpoConfig, task: method.Task
) -> algorithm.Algorithm:
    return xpo(networks["policy"], config, **online_dpo.options(networks, config, task, SIZE))


XpoConfig.METHOD = method.Method(
    name="xpo",
    make=_make,
    table=lambda config: "prompts",
    roles=online_dpo.roles,
    evaluators=online_dpo.evaluators,
    formula=XpoConfig.formula,
    sampling=lambda config: config.sampling,
    curves=("reward", "tied", "win_rate"),
)
