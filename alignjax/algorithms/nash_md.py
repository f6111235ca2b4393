"""Nash-MD: a policy preferred to a mixture of itself and its reference, by policy gradient."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.algorithms import online_dpo, preset
from alignjax.core import mean, shapes
from alignjax.models import mixture, scoring
from alignjax.models import model as models
from alignjax.rewards import learned
from alignjax.rollouts import collection, compared, rollouts
from alignjax.rollouts import compared_collection as comparing
from alignjax.sampling import generate
from alignjax.training import algorithm, method, program, update

SIZE = 2  # samples of a prompt: the policy's, then its rival's


@dataclasses.dataclass(kw_only=True)
class NashMdConfig(compared.ComparedConfig, preset.PresetConfig):
    """The policy's sample against one of the geometric mixture of policy and reference.

    The chance that it is preferred is a judge's, or the sigmoid of the difference of two rewards; a
    judge's may be cyclic, where no reward is. Equal rewards are a chance of 1/2, whose rows still
    pay the KL.
    """

    TABLE = "rollouts"
    WITHOUT = frozenset(
        {"advantages", "other", "preferred", "values", "old", "token_weights", "key"}
    )
    MUST = frozenset({"preferences"})
    OWN = (*online_dpo.COMPARED, "mixture", "max_drift")

    method: str = "nash_md"
    compat: str = "paper"  # whose formula and defaults
    beta: float | None = None  # tau: weight of the KL to the reference, in chances per nat
    mixture: float = 0.5  # of the rival: the reference's share in the exponent; 0 is self-play
    max_drift: float = 0.0  # nats a token between sampler and trainer; 0 is 1e-3 in fp32, 0.5 else

    def validate(self) -> None:
        self.validate_compared()
        self.check_whole_distribution("the policy gradient")
        shapes.check_number("algorithm.mixture", self.mixture, minimum=0, maximum=1)
        shapes.check_number("algorithm.max_drift", self.max_drift, minimum=0)
        wide = jnp.zeros((2, 4), jnp.float32)
        arrays = {"logprobs": wide, "reference_logprobs": wide, "preferences": wide[:, 0]}
        try:
            jax.eval_shape(self.terms, {**arrays, "mask": wide == 0})
        except ValueError as error:
            raise ValueError(f"{error} (algorithm)") from None

    def formula(self) -> str:
        rival = f"pi^{1 - self.mixture:g} ref^{self.mixture:g}"
        return f"{super().formula()}; rival {rival}, token by token; {self.echo_compared()}"


def nash_md(
    model: models.Model,
    config: NashMdConfig,
    *,
    reward: learned.RewardFn,
    eos: int | Sequence[int],
    pad: int,
    reference: models.Model | None = None,
    micro_batches: int = 1,
    task: method.Task | None = None,
) -> algorithm.Algorithm:
    """Minimises (beta sg(log pi / ref) - (P - 1/2)) log pi of the policy's own samples.

    P is the chance that the sample beats the rival's, which is drawn token by token from the
    geometric mixture of policy and reference, with a cache of each. No gradient passes P or the
    log-ratio. Where it rests, log(pi / ref) = P(y beats the mixture) / beta + constant: for a small
    mixture the Nash equilibrium of the preference regularised by beta KL(pi || ref), at which the
    last iterate arrives, not only the mean of all.
    Batch: a table of prompts. Frozen: "reference", and what `reward` reads.
    Reference: Munos et al. 2023, arXiv 2312.00886, section 7.
    """
    config.validate()
    second = model if reference is None else reference
    rival = mixture.geometric(model, second, config.mixture)
    draw = collection.Draw(model, config.sampling, reward, eos, pad)
    limit = generate.drift_limit(model, config.max_drift)
    temperature = config.sampling.temperature

    def mixed(params: models.Params, frozen: models.Frozen) -> dict[str, models.Params]:
        own, other = model.bind(params, frozen), second.bind(frozen["reference"], frozen)
        return {mixture.POLICY: own, mixture.REFERENCE: other}

    def rows(
        params: models.Params,
        frozen: models.Frozen,
        samples: rollouts.Rollouts,
        rewards: jax.Array,
        valid: jax.Array,
    ) -> tuple[dict[str, jax.Array], jax.Array, dict[str, mean.Mean]]:
        first = jax.tree.map(lambda x: rollouts.in_groups(x, SIZE)[:, 0], samples)
        counts = jnp.all(valid, axis=1)
        batch = learned.as_batch(first)

        def scored(part: algorithm.Batch) -> jax.Array:
            bound = second.bind(frozen["reference"], frozen)
            return scoring.answer_logprobs(second, bound, part, temperature=temperature)

        chance = compared.chances(config, rewards)
        table = {
            **batch,
            "loss_mask": batch["loss_mask"] & counts[:, None],
            "reference_logprobs": update.in_chunks(scored, batch, micro_batches),
            "drawn_logprobs": first.logprobs,
            "preferences": jnp.where(counts, chance, 0.5),
        }
        won = mean.masked(chance, counts)
        return table, counts & (rewards[:, 0] != rewards[:, 1]), {"win_rate": won}

    def loss(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[algorithm.Terms, algorithm.Metrics]:
        bound = model.bind(params, frozen, key)
        hidden, penalties = scoring.hidden_and_penalties(model, bound, batch)
        mask = batch["loss_mask"]
        stats = scoring.stats_of(
            model,
            bound,
            hidden,
            batch["tokens"],
            temperature=temperature,
            want=("logprob", "entropy"),
            mask=mask,
        )
        counted = jnp.any(mask, axis=1)
        arrays = {
            "logprobs": stats.logprob,
            "reference_logprobs": batch["reference_logprobs"],
            "preferences": batch["preferences"],
            "mask": mask,
            "row_mask": counted,
        }
        terms = {**config.terms(arrays), **penalties}
        apart = jnp.where(mask, jnp.abs(stats.logprob - batch["drawn_logprobs"]), 0.0)
        kl = losses.k1(stats.logprob, batch["reference_logprobs"], mask)
        return terms, {
            **terms,
            # The sum over micro-batches of their largest: an upper bound.
            "drift": mean.Mean(
                total=jnp.max(apart, initial=0.0), weight=jnp.full((), 1.0 / micro_batches)
            ),
            "kl": mean.masked(jnp.sum(kl, axis=1), counted),
            "entropy": mean.masked(stats.entropy, mask),
        }

    def verify(metrics: algorithm.Metrics) -> None:
        generate.check_drift(metrics["drift"].value, limit)

    def first(batch: algorithm.Batch) -> Mapping[str, algorithm.Expected]:
        if model.drops_out or reference is not None:
            return {}
        return {"kl": algorithm.no_kl(model.rounding, batch["tokens"].shape[-1])}

    def planned(shapes: program.Shapes) -> list[program.Program]:
        both = {name: shapes.bound[name] for name in (mixture.POLICY, mixture.REFERENCE)}
        parts = (("parameters", shapes.params), ("frozen", shapes.frozen))
        return comparing.generations(shapes, draw, rival, both, parts)

    return algorithm.Algorithm(
        init=algorithm.from_policy(model),
        loss=loss,
        collect=comparing.Collector(
            comparing.make_duel(draw, rival, mixed), rows, config, SIZE, task
        ),
        carry=comparing.start_carry(),
        first=first,
        verify=verify,
        programs=comparing.make_programs(
            planned, config, rows, SIZE, (program.Pass("reference"),), chunks=micro_batches
        ),
        passes=(program.Pass("policy", trained=True),),
    )


def _make(
    networks: Mapping[str, models.Model], config: NashMdConfig, task: method.Task
) -> algorithm.Algorithm:
    return nash_md(networks["policy"], config, **online_dpo.options(networks, config, task, SIZE))


NashMdConfig.METHOD = method.Method(
    name="nash_md",
    make=_make,
    table=lambda config: "prompts",
    roles=online_dpo.roles,
    evaluators=online_dpo.evaluators,
    formula=NashMdConfig.formula,
    sampling=lambda config: config.sampling,
    curves=("reward", "win_rate", "kl"),
)
