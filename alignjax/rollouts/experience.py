"""From scored samples to rows to train on: selection, advantages, and every weight from masks."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import blocks
from alignjax.core import mean, struct
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import axes
from alignjax.rewards import learned, scores
from alignjax.rollouts import rollouts, select, settings
from alignjax.training import algorithm, update


class Networks(NamedTuple):
    """The models of the policy and of its reference."""

    policy: models.Model
    reference: models.Model


class Needs(NamedTuple):
    """Whose log-probabilities the loss reads: of the old policy, the reference, the sampler."""

    old: bool = True
    reference: bool = False
    sampler: bool = False


class Scored(NamedTuple):
    """Log-probabilities and more of the selected rows, all [R, T]."""

    stats: losses.TokenStats
    reference_logprobs: jax.Array | None
    sampled_logprobs: jax.Array | None  # by the trainer's pass of the policy that sampled


Experience = Callable[..., tuple[dict[str, jax.Array], dict[str, Any], algorithm.Metrics]]


def is_scored(found: scores.Scores, samples: rollouts.Rollouts, overlong: str) -> jax.Array:
    """[R] bool: rows that count in baseline and loss alike."""
    valid = jnp.isfinite(found.reward) & ~found.failed
    return valid & samples.ended if overlong == "mask" else valid


def soft_overlong(lengths: jax.Array, *, limit: int, buffer: int) -> jax.Array:
    """[R]: 0 up to limit - buffer tokens, then linear to -1 at the limit.

    Reference: Yu et al. (2025, DAPO), equation 13.
    """
    return -jnp.clip((lengths - (limit - buffer)) / buffer, 0.0, 1.0)


def taken(tree: Any, groups: jax.Array, size: int) -> Any:
    """The rows [K G, ...] of the chosen groups [K] of rows [P G, ...]."""
    rows = (groups[:, None] * size + jnp.arange(size)[None]).reshape(-1)
    return jax.tree.map(lambda x: axes.take(x, rows, "batch" + " slot" * (x.ndim - 1)), tree)


def make_experience(
    networks: Networks,
    config: settings.GroupConfig,
    needs: Needs,
    *,
    compat: str,
    chunks: int = 1,
) -> Experience:
    """Jitted (params, sampler, frozen, samples, scores, greedy) -> (rows, told, Metrics).

    Arguments: params of the policy; sampler: those that sampled, None where they are the same;
    samples of [P G] rows; greedy [P]: rewards of greedy answers, None where no estimator reads
    them. rows: what the loss trains on, [K G, ...] of the K = P / candidates groups chosen. told:
    what the host keeps, checks or shows: informative [P], pass_rate [P], drift, the first group.
    """
    size, limit = config.group, config.sampling.max_new_tokens

    def score_rows(
        params: models.Params, sampler: Any, frozen: models.Frozen, batch: algorithm.Batch
    ) -> Scored:
        temperature = config.sampling.temperature

        def logprobs(model: models.Model, tree: models.Params) -> losses.TokenStats:
            bound = model.bind(tree, frozen)
            return scoring.token_stats(model, bound, batch, temperature=temperature)

        reference = None
        if needs.reference:
            reference = logprobs(networks.reference, frozen["reference"]).logprob
        before = None if sampler is None else logprobs(networks.policy, sampler).logprob
        return Scored(logprobs(networks.policy, params), reference, before)

    @jax.jit
    def experience(
        params: models.Params,
        sampler: Any,
        frozen: models.Frozen,
        samples: rollouts.Rollouts,
        found: scores.Scores,
        greedy: jax.Array | None,
    ) -> tuple[dict[str, jax.Array], dict[str, Any], algorithm.Metrics]:
        reward = found.reward
        if config.overlong == "soft":
            tokens = jnp.sum(samples.mask, axis=1)
            reward = reward + soft_overlong(tokens, limit=limit, buffer=config.overlong_buffer)
        valid = is_scored(found, samples, config.overlong)
        reward = jnp.where(valid, reward, 0.0)
        grouped, there = (rollouts.in_groups(x, size) for x in (reward, valid))
        informative = losses.is_informative(grouped, there) if size > 1 else jnp.any(there, axis=1)
        metrics = _of_groups(config, samples, found, reward, valid, informative)

        trained = round(informative.shape[0] / config.candidates)
        chosen = select.informative_first(informative, trained)
        kept = jnp.take(informative, chosen)
        rows = taken((samples, reward, valid, found.parts), chosen, size)
        samples, reward, valid, parts = rows
        if config.dead == "drop" or config.candidates > 1:
            valid = valid & rollouts.repeated(kept, size)
        samples = struct.replace(samples, mask=samples.mask & valid[:, None])

        batch = learned.as_batch(samples)
        scored = update.in_chunks(
            lambda part: score_rows(params, sampler, frozen, part), batch, chunks
        )
        arrays: dict[str, Any] = {
            "mask": samples.mask,
            "old_logprobs": scored.stats.logprob,
            "logprobs": scored.stats.logprob,
            "sum_p2": scored.stats.sum_p2,
            "rewards": reward,
            "valid": valid,
            "parts": parts,
        }
        if scored.reference_logprobs is not None:
            arrays["reference_logprobs"] = scored.reference_logprobs
            kl = losses.k1(scored.stats.logprob, scored.reference_logprobs, samples.mask)
            arrays["kl"] = kl
            metrics["kl"] = mean.masked(jnp.sum(kl, axis=1), valid)
        if greedy is not None:
            arrays["greedy_rewards"] = rollouts.repeated(jnp.take(greedy, chosen), size)
        advantages = estimate(config, compat, arrays, size)
        at_sampling = scored.stats.logprob
        if scored.sampled_logprobs is not None:
            at_sampling = scored.sampled_logprobs
        drift = jnp.max(
            jnp.where(samples.mask, jnp.abs(at_sampling - samples.logprobs), 0.0), initial=0.0
        )
        if config.correction != "off":
            weight = correction(config, scored.stats.logprob, samples)
            metrics["correction"] = mean.masked(weight, samples.mask)
            advantages = _times(advantages, weight, samples.mask)
        rows = {**batch, "advantages": advantages}
        if needs.old:
            rows["old_logprobs"] = scored.stats.logprob
        if needs.reference:
            rows["reference_logprobs"] = arrays["reference_logprobs"]
        if needs.sampler:
            rows["sampler_logprobs"] = samples.logprobs
        metrics["drift"] = mean.of(drift)
        metrics["entropy"] = mean.masked(scored.stats.entropy, samples.mask)
        metrics["trained"] = mean.of(kept & jnp.any(rollouts.in_groups(valid, size), axis=1))
        number = jnp.maximum(jnp.sum(there, axis=1), 1)
        rates = jnp.sum(jnp.where(there, grouped, 0.0), axis=1) / number
        scalars = {
            "prompt_lengths": samples.prompt_lengths,
            "reward": reward,
            "valid": valid,
            "ended": samples.ended,
            "task": samples.task,
        }
        shown = {**rows, **scalars, "parts": parts, "lengths": samples.lengths}
        told = {
            "informative": informative,
            "pass_rate": rates,
            "drift": drift,
            "shown": _first_rows(shown, size),
        }
        return rows, told, metrics

    return experience


def _first_rows(tree: Any, count: int) -> Any:
    """The first rows of every array, whole on every device."""
    return jax.tree.map(
        lambda x: axes.take(x, jnp.arange(count), " ".join(["slot"] * x.ndim)), tree
    )


def correction(
    config: settings.GroupConfig, logprobs: jax.Array, samples: rollouts.Rollouts
) -> jax.Array:
    """[R, T]: weights of trainer over sampler, by the sampler's own log-probabilities."""
    return losses.sampler_weight(
        logprobs,
        samples.logprobs,
        samples.mask,
        level=config.correction_level,
        beyond="truncate" if config.correction == "truncate" else "drop",
        maximum=config.correction_maximum,
    )


def _times(advantages: jax.Array, weight: jax.Array, mask: jax.Array) -> jax.Array:
    """Advantages [R] or [R, T] times weights [R, T], which differ within a row or not."""
    if advantages.ndim == 2:
        return advantages * weight
    return advantages[:, None] * jnp.where(mask, weight, 0.0)


def estimate(
    config: settings.GroupConfig, compat: str, arrays: Mapping[str, Any], size: int
) -> jax.Array:
    """Advantages [R] of rows, or [R, T] of tokens; 0 on rows that do not count.

    arrays: rewards [R], valid [R], mask, log-probabilities, and what else the estimator reads.
    """
    mask, valid = arrays["mask"], arrays["valid"]
    reward: jax.Array = arrays["rewards"]
    kl: Any = arrays.get("kl")
    name, beta = config.advantages, config.kl_in_reward
    recipe = None if name == "reward" else settings.estimator(compat, name)
    own_kl = recipe is not None and "kl_weight" in recipe.defaults
    if name in settings.TOKENS and not own_kl:
        rewards = blocks.estimators.at_last_token(reward, mask)
        if beta:
            rewards = rewards - beta * kl
    else:
        if beta and not own_kl:
            reward = reward - beta * jnp.sum(kl, axis=1)
        rewards = rollouts.in_groups(jnp.where(valid, reward, jnp.nan), size)
    if recipe is None:
        return jnp.where(valid, rewards.reshape(-1), 0.0)
    given = {**arrays, "rewards": rewards}
    if name == "gdpo":
        parts = [rollouts.in_groups(x, size) for x in arrays["parts"].values()]
        stacked = jnp.stack(parts, axis=-1)
        there = rollouts.in_groups(valid, size)[..., None]
        given["rewards"] = jnp.where(there, stacked, jnp.nan)
        given["reward_weights"] = jnp.asarray(config.part_weights, jnp.float32)
    if name == "remax":
        given["rewards"] = jnp.where(valid, reward, 0.0)
    found = recipe(given, **config.estimator_options())
    if found.shape == mask.shape:
        return jnp.where(mask, found, 0.0)
    return jnp.where(valid, found.reshape(-1), 0.0)


def _of_groups(
    config: settings.GroupConfig,
    samples: rollouts.Rollouts,
    found: scores.Scores,
    reward: jax.Array,
    valid: jax.Array,
    informative: jax.Array,
) -> dict[str, mean.Mean]:
    """Metrics of all samples, before any is left out."""
    size = config.group
    metrics = {
        "reward": mean.masked(reward, valid),
        **{f"reward_{name}": mean.masked(x, valid) for name, x in found.parts.items()},
        "unscored": mean.of(~jnp.isfinite(found.reward) & ~found.failed),
        "failed": mean.of(found.failed),
        "cut": mean.of(samples.cut),
        "length": mean.of(jnp.sum(samples.mask, axis=1)),
    }
    if size > 1:
        number = jnp.maximum(jnp.sum(valid), 1)
        rate = jnp.sum(jnp.where(valid, reward, 0.0)) / number
        binary = jnp.all(jnp.where(valid, (reward == 0) | (reward == 1), True))
        share = select.dead_share(rate, size)
        metrics["dead"] = mean.of(~informative)
        # Of prompts that are all as hard as the mean one; it says nothing of graded rewards.
        metrics["dead_predicted"] = mean.Mean(
            total=jnp.where(binary, share, 0.0), weight=binary.astype(jnp.float32)
        )
    return metrics
