"""Which prompts are sampled, and which groups are trained on: pure functions of arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.core import mean, struct
from alignjax.losses import inputs
from alignjax.parallel import axes
from alignjax.rewards import scores
from alignjax.rollouts import replay, rollouts, settings
from alignjax.training import algorithm


def informative_first(informative: jax.Array, count: int) -> jax.Array:
    """Numbers [count] of the groups to train on: the first informative ones, then others, in order.

    A fixed number of candidates, and no more draws where too few are informative: every step has
    the same shape and is a function of (seed, step). informative: [P] bool.

    Reference: Yu et al. (2025, DAPO), section 3.2, with a fixed budget.
    """
    return jnp.argsort(~inputs.gathered(informative), stable=True)[:count]


def by_difficulty(key: jax.Array, pass_rates: jax.Array, count: int, *, floor: float) -> jax.Array:
    """Numbers [count] of the prompts to sample, ascending: without replacement, weight p (1 - p).

    The weight is that of a prompt in the policy gradient of a 0/1 reward; the floor keeps prompts
    alive that look solved or hopeless. Gumbel top-k: the order statistics of log weight + Gumbel
    noise are draws without replacement (Kool et al. 2019).

    Args:
      pass_rates: [P], in [0, 1]; unknown ones at 1/2. floor: > 0, added to the weight.
    """
    rates = jnp.clip(inputs.gathered(pass_rates), 0.0, 1.0)
    weight = rates * (1.0 - rates) + floor
    noisy = jnp.log(weight) + jax.random.gumbel(key, weight.shape)
    return jnp.sort(jax.lax.top_k(noisy, count)[1])


def dead_share(p: jax.Array, size: int) -> jax.Array:
    """p^G + (1 - p)^G: the chance that G samples of a prompt solved at rate p all score alike."""
    return p**size + (1.0 - p) ** size


def is_scored(scored: scores.Scores, samples: rollouts.Rollouts, overlong: str) -> jax.Array:
    """[R] bool: rows that count in baseline and loss alike."""
    valid = jnp.isfinite(scored.reward) & ~scored.failed
    return valid & samples.ended if overlong == "mask" else valid


def soft_overlong(lengths: jax.Array, *, limit: int, buffer: int) -> jax.Array:
    """[R]: 0 up to limit - buffer tokens, then linear to -1 at the limit.

    Reference: Yu et al. (2025, DAPO), equation 13.
    """
    return -jnp.clip((lengths - (limit - buffer)) / buffer, 0.0, 1.0)


def choose(
    config: settings.GroupConfig,
    samples: rollouts.Rollouts,
    scored: scores.Scores,
    greedy: jax.Array | None,
    stored: replay.Stored | None = None,
) -> tuple[rollouts.Groups, dict[str, Any], algorithm.Metrics]:
    """(the chosen groups, what the host keeps, metrics of all samples).

    greedy [P]: rewards of greedy answers. stored: groups of earlier steps to stand in.
    """
    size, reward = config.group, scored.reward
    if config.overlong == "soft":
        tokens = jnp.sum(samples.mask, axis=1)
        limit, buffer = config.most_sampled, config.overlong_buffer
        reward = reward + soft_overlong(tokens, limit=limit, buffer=buffer)
    valid = is_scored(scored, samples, config.overlong)
    if greedy is not None:  # without its baseline a row is as good as without a score
        valid = valid & rollouts.repeated(jnp.isfinite(greedy), size)
        greedy = jnp.where(jnp.isfinite(greedy), greedy, 0.0)
    reward = jnp.where(valid, reward, 0.0)
    grouped, there = (rollouts.in_groups(x, size) for x in (reward, valid))
    informative = losses.is_informative(grouped, there) if size > 1 else jnp.any(there, axis=1)
    metrics = of_samples(samples, scored, reward, valid)
    metrics |= _of_groups(config, samples, reward, valid, informative)

    if greedy is not None:
        greedy = rollouts.repeated(greedy, size)
    every = rollouts.Groups(samples, reward, valid, scored.parts, greedy)
    trained = round(informative.shape[0] / config.candidates)
    order = informative_first(informative, informative.shape[0])
    kept = axes.take(informative, order[:trained], "batch")
    chosen = rollouts.taken(every, order[:trained], size)
    if config.dead == "drop" or config.candidates > 1:
        chosen = chosen._replace(valid=chosen.valid & rollouts.repeated(kept, size))
    mask = chosen.samples.mask & chosen.valid[:, None]
    chosen = chosen._replace(samples=struct.replace(chosen.samples, mask=mask))
    told: dict[str, Any] = {"informative": informative, "has_scores": jnp.any(there, axis=1)}
    if stored is not None:
        chosen, replayed = replay.stand_in(config, chosen, kept, stored)
        metrics["replayed"], kept = mean.of(replayed), kept | replayed
        count = jnp.sum(inputs.gathered(informative))
        told["replay"] = replay.stored_after(config, every, order, count, stored)
    metrics["trained"] = mean.of(kept & jnp.any(rollouts.in_groups(chosen.valid, size), axis=1))
    rates = jnp.sum(jnp.where(there, grouped, 0.0), axis=1)
    told["pass_rate"] = rates / jnp.maximum(jnp.sum(there, axis=1), 1)
    return chosen, told, metrics


def of_samples(
    samples: rollouts.Rollouts, scored: scores.Scores, reward: jax.Array, valid: jax.Array
) -> dict[str, mean.Mean]:
    """Metrics of all samples, before any is left out; the reward's are over those that count."""
    return {
        "reward": mean.masked(reward, valid),
        **{f"reward_{name}": mean.masked(x, valid) for name, x in scored.parts.items()},
        "unscored": mean.of(~jnp.isfinite(scored.reward) & ~scored.failed),
        "failed": mean.of(scored.failed),
        "cut": mean.of(samples.cut),
        "length": mean.of(jnp.sum(samples.mask, axis=1)),
    }


def _of_groups(
    config: settings.GroupConfig,
    samples: rollouts.Rollouts,
    reward: jax.Array,
    valid: jax.Array,
    informative: jax.Array,
) -> dict[str, mean.Mean]:
    """Metrics of turns, and of groups that teach nothing."""
    size, metrics = config.group, {}
    if config.env is not None:
        metrics["turns"] = mean.of(samples.turns)
    if size > 1:
        number = jnp.maximum(jnp.sum(valid), 1)
        rate = jnp.sum(jnp.where(valid, reward, 0.0)) / number
        binary = jnp.all(jnp.where(valid, (reward == 0) | (reward == 1), True))
        share = dead_share(rate, size)
        metrics["dead"] = mean.of(~informative)
        # Of prompts that are all as hard as the mean one; it says nothing of graded rewards.
        metrics["dead_predicted"] = mean.Mean(
            total=jnp.where(binary, share, 0.0), weight=binary.astype(jnp.float32)
        )
    return metrics
