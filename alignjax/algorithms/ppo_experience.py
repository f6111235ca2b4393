"""The experience of PPO: samples scored by its networks, token rewards, advantages, returns."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import compat as presets
from alignjax import losses
from alignjax.core import mean, struct
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.rewards import learned
from alignjax.rollouts import collection
from alignjax.rollouts import programs as common
from alignjax.sampling import generate, plan
from alignjax.training import algorithm, program, update

if TYPE_CHECKING:
    from alignjax.algorithms.ppo import PpoConfig

COLLECTED = ("old_logprobs", "old_values", "advantages", "returns")


class Networks(NamedTuple):
    """The models of PPO's roles; all one where they share their shape and adapters."""

    policy: models.Model
    critic: models.Model
    reference: models.Model


def critic_of(params: models.Params, config: "PpoConfig") -> tuple[models.Params, models.Params]:
    """(policy, critic) trees; twice the same tree with a shared critic.

    Under adapters these are the adapters of policy and critic over one base.
    """
    return (params, params) if config.shared_critic else (params["policy"], params["value"])


def policy_and_values(
    networks: Networks,
    config: "PpoConfig",
    params: models.Params,
    frozen: models.Frozen,
    batch: algorithm.Batch,
    key: jax.Array | None = None,
    want: Sequence[str] = ("logprob",),
) -> tuple[losses.TokenStats, jax.Array, algorithm.Terms]:
    """(token statistics, values of the prefixes, the models' own losses).

    Statistics, the wanted ones of sampled tokens at the sampling temperature, and values are
    [B, T]. With a key adapters drop out, independently in policy and critic; without one nothing
    is random.
    """
    keys = (None, None) if key is None else jax.random.split(key)
    model, critic_model = networks.policy, networks.critic
    policy, critic = (
        network.bind(tree, frozen, own)
        for network, tree, own in zip(
            (model, critic_model), critic_of(params, config), keys, strict=True
        )
    )
    hidden, penalties = scoring.hidden_and_penalties(model, policy, batch)
    stats = scoring.stats_of(
        model,
        policy,
        hidden,
        batch["tokens"],
        temperature=config.sampling.temperature,
        want=want,
        mask=batch["loss_mask"],
    )
    if config.shared_critic:
        return stats, scoring.align(model.scalar(policy, hidden)), penalties
    hidden, more = scoring.hidden_and_penalties(critic_model, critic, batch)
    penalties |= {f"value_{name}": term for name, term in more.items()}
    return stats, scoring.align(critic_model.scalar(critic, hidden)), penalties


def token_rewards(
    samples: generate.Samples, scores: jax.Array, kl: jax.Array, coefficient: jax.Array
) -> jax.Array:
    """[B, T]: -coefficient * kl on every token, plus the row's score [B] on its last one.

    The last token is EOS where the completion ended, else the last before the limit. kl is 0
    outside the completion.
    """
    is_last = jnp.arange(kl.shape[1])[None] == (samples.lengths - 1)[:, None]
    return jnp.where(is_last, scores[:, None], 0.0) - coefficient * kl


def estimate(
    config: "PpoConfig",
    samples: generate.Samples,
    arrays: dict[str, jax.Array],
    kl: jax.Array,
    coefficient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(advantages, returns), [B, T]: GAE of token rewards, by the preset's recipes if it has any.

    arrays: what recipes read. kl: [B, T], nats. coefficient: reward units per nat.
    """
    numbers = {"discount": config.discount, "decay": config.decay}
    if config.has_own_rewards():
        recipes = {n: presets.recipe(config.compat, n) for n in ("rewards", "gae", "returns")}
        rewards = recipes["rewards"](arrays, kl_weight=coefficient)
        arrays = {**arrays, "rewards": rewards}
        return recipes["gae"](arrays, **numbers), recipes["returns"](arrays, **numbers)
    mask = arrays["mask"]
    rewards = token_rewards(samples, arrays["scores"], kl, coefficient)
    advantages, returns = losses.gae(rewards, arrays["values"], mask, **numbers)
    return losses.whiten(advantages, mask) if config.whiten_advantages else advantages, returns


class Scored(NamedTuple):
    """The networks' scores of samples, all [B, T]; kl in nats, 0 outside the completion."""

    stats: losses.TokenStats
    values: jax.Array
    kl: jax.Array
    reference_logprobs: jax.Array


Experience = Callable[
    [models.Params, models.Frozen, generate.Samples, jax.Array, jax.Array],
    tuple[dict[str, jax.Array], algorithm.Metrics],
]


def make_experience(networks: Networks, config: "PpoConfig", *, chunks: int = 1) -> Experience:
    """Jitted (params, frozen, samples, scores [B], coefficient) -> (rows to train on, Metrics).

    chunks: equal parts of the rows that the networks score one after the other, so that collecting
    needs no more memory than an update; rewards and advantages are those of the whole batch.
    """

    def score_rows(
        params: models.Params, frozen: models.Frozen, samples: generate.Samples
    ) -> Scored:
        batch = learned.as_batch(samples)
        stats, values, _ = policy_and_values(
            networks, config, params, frozen, batch, want=("logprob", "entropy")
        )
        reference = networks.reference.bind(frozen["reference"], frozen)
        reference_logprobs = scoring.answer_logprobs(
            networks.reference, reference, batch, temperature=config.sampling.temperature
        )
        kl = losses.k1(stats.logprob, reference_logprobs, samples.mask)
        return Scored(stats, values, kl, reference_logprobs)

    @jax.jit
    def experience(
        params: models.Params,
        frozen: models.Frozen,
        samples: generate.Samples,
        scores: jax.Array,
        coefficient: jax.Array,
    ) -> tuple[dict[str, jax.Array], algorithm.Metrics]:
        there = jnp.isfinite(scores)  # a row that cannot be scored teaches nothing
        scores = jnp.where(there, scores, 0.0)
        samples = struct.replace(samples, mask=samples.mask & there[:, None])
        batch, mask = learned.as_batch(samples), samples.mask
        stats, values, kl, reference_logprobs = update.in_chunks(
            lambda part: score_rows(params, frozen, part), samples, chunks
        )
        scores = scores - config.missing_eos_penalty * ~samples.ended
        arrays = {
            "old_logprobs": stats.logprob,
            "reference_logprobs": reference_logprobs,
            "scores": scores,
            "values": values,
            "mask": mask,
        }
        advantages, returns = estimate(config, samples, arrays, kl, coefficient)
        drift = jnp.max(jnp.where(mask, jnp.abs(stats.logprob - samples.logprobs), 0.0))
        rows = {
            **batch,
            "old_logprobs": stats.logprob,
            "old_values": values,
            "advantages": advantages,
            "returns": returns,
        }
        return rows, {
            "score": mean.masked(scores, there),
            "kl": mean.masked(jnp.sum(kl, axis=1), there),
            "kl_coefficient": mean.of(coefficient),
            "length": mean.masked(jnp.sum(mask, axis=1), there),
            "ended": mean.of(samples.ended),
            "entropy": mean.masked(stats.entropy, mask),
            "drift": mean.of(drift),
        }

    return experience


def make_programs(
    draw: collection.Draw, networks: Networks, config: "PpoConfig", *, chunks: int
) -> Callable[[program.Shapes], program.Collected]:
    """The programs of `collect`, in shapes: generate, score, experience."""

    def programs(shapes: program.Shapes) -> program.Collected:
        count, prompt_length = shapes.batch["prompts"].shape
        policy, _ = critic_of(shapes.params, config)
        length = prompt_length + config.sampling.max_new_tokens
        samples = plan.samples(count, length)
        scores = program.rows({"scores": ((count,), np.float32)})["scores"]
        calls = [common.generation(shapes, draw, policy, count)]
        if config.reward == "model":
            calls.append(common.scoring(shapes, samples, chunks))
        coefficient = jax.ShapeDtypeStruct((), jnp.float32)
        experience = make_experience(networks, config, chunks=chunks)
        arguments = (shapes.params, shapes.frozen, samples, scores, coefficient)
        passes = [program.Pass("policy"), program.Pass("reference")]
        if not config.shared_critic:
            passes.append(program.Pass("value", head=False))
        parts = (
            ("parameters", shapes.params),
            ("frozen", shapes.frozen),
            ("batch", (samples, scores)),
            ("other", coefficient),
        )
        calls.append(
            program.Program(
                "experience", experience, arguments, parts, count, length, tuple(passes)
            )
        )
        rows = {name: ((count, length), dtype) for name, dtype in common.READ.items()}
        rows |= {name: ((count, length), np.float32) for name in COLLECTED}
        return program.Collected(tuple(calls), program.rows(rows))

    return programs
