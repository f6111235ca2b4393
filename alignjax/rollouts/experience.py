"""From scored samples to rows to train on: selection, advantages, and every weight from masks."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import blocks
from alignjax.core import mean
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import axes
from alignjax.rewards import learned, scores
from alignjax.rollouts import pack, replay, rollouts, select, settings
from alignjax.training import algorithm, update


class Networks(NamedTuple):
    """The models of the policy and of its reference."""

    policy: models.Model
    reference: models.Model


class Needs(NamedTuple):
    """Whose log-probabilities the loss reads: of the old policy, the reference, the sampler.

    drawn: the loss compares the sampler's with its own, and there is no pass of the policy before
    the update: in a single update on its own samples the old policy is the policy itself.
    """

    old: bool = True
    reference: bool = False
    sampler: bool = False
    drawn: bool = False


def needs_of(config: settings.GroupConfig, reads: frozenset[str], needed: frozenset[str]) -> Needs:
    """What collecting must compute for a loss that may read `reads` and must have `needed`."""
    credit = config.credit
    by_credit = credit is not None and bool(credit.reads & {"old", "sum_p2", "sampler"})
    several = config.epochs * config.minibatches > 1
    before = several or bool(config.lag) or config.correction != "off" or config.kl_in_reward > 0
    before = before or by_credit
    return Needs(
        old="old" in reads and before,
        reference="reference" in needed or config.kl_in_reward > 0,
        sampler="sampler" in needed,
        drawn=not before,
    )


class Scored(NamedTuple):
    """Log-probabilities and more of the selected rows, all [R, T]."""

    stats: losses.TokenStats | None
    reference_logprobs: jax.Array | None
    sampled_logprobs: jax.Array | None  # by the trainer's pass of the policy that sampled


# (score, link) of estimators that start from the rewards of single tokens, [R, T].
OF_TOKENS = (("rewards", "to_go"), ("rewards", "remax_to_go"))
Experience = Callable[..., tuple[dict[str, jax.Array], dict[str, Any], algorithm.Metrics]]


def make_experience(
    networks: Networks,
    config: settings.GroupConfig,
    needs: Needs,
    *,
    chunks: int = 1,
    multiple: int = 1,
) -> Experience:
    """(params, sampler, frozen, samples, scores, greedy, stored) -> (rows, told, Metrics).

    Arguments: params of the policy; sampler: those that sampled, None where they are the same;
    samples of [P G] rows; greedy [P]: rewards of greedy answers, None where no estimator reads
    them; stored: groups of earlier steps, None without replay. rows: what the loss trains on, [K G,
    ...] of the K = P / candidates groups chosen, or fewer packed ones. told: what the host keeps,
    checks or shows: informative [P], pass_rate [P], has_scores [P], drift, the first group. chunks:
    parts that networks score one after the other. multiple: divides the packed rows.
    """

    def score_rows(
        params: models.Params, sampler: Any, frozen: models.Frozen, batch: algorithm.Batch
    ) -> Scored:
        temperature = config.sampling.temperature

        def stats(model: models.Model, tree: models.Params, *want: str) -> losses.TokenStats:
            bound, mask = model.bind(tree, frozen), scoring.counted(batch)
            options: Any = {"temperature": temperature, "want": ("logprob", *want), "mask": mask}
            return scoring.token_stats(model, bound, batch, **options)

        reference = None
        if needs.reference:
            reference = stats(networks.reference, frozen["reference"]).logprob
        before = None if sampler is None else stats(networks.policy, sampler).logprob
        credit = config.credit
        squares = ["sum_p2"] if credit is not None and "sum_p2" in credit.reads else []
        own = None if needs.drawn else stats(networks.policy, params, "entropy", *squares)
        return Scored(own, reference, before)

    @jax.jit
    def score(
        params: models.Params,
        sampler: Any,
        frozen: models.Frozen,
        chosen: rollouts.Groups,
        layout: pack.Layout | None,
    ) -> tuple[dict[str, jax.Array], dict[str, Any], algorithm.Metrics]:
        tokens = chosen.samples.tokens
        batch = learned.as_batch(chosen.samples)
        read = batch if layout is None else pack.packed(tokens, batch["loss_mask"], layout)
        scored = update.in_chunks(
            lambda part: score_rows(params, sampler, frozen, part), pack.as_batch(read), chunks
        )
        if layout is not None:
            scored = pack.in_order(scored, layout)
        columns, drift, metrics = credited(config, needs, chosen, scored)
        told: dict[str, Any] = {"shown": shown(chosen, columns["advantages"], config.group)}
        told |= {} if drift is None else {"drift": drift}
        if layout is None:
            return {**batch, **columns}, told, metrics
        columns = pack.grouped({**columns, "loss_mask": batch["loss_mask"]}, layout)
        return {**read, **columns, "start": layout.start}, told, metrics

    selected = jax.jit(lambda *args: select.choose(config, *args))
    reading = [networks.policy, *([networks.reference] if needs.reference else [])]
    branches = all(model.branches for model in reading)

    def experience(
        params: models.Params,
        sampler: Any,
        frozen: models.Frozen,
        samples: rollouts.Rollouts,
        found: scores.Scores,
        greedy: jax.Array | None,
        stored: replay.Stored | None = None,
    ) -> tuple[dict[str, jax.Array], dict[str, Any], algorithm.Metrics]:
        chosen, told, metrics = selected(samples, found, greedy, stored)
        layout = None
        if config.pack:
            lengths = jnp.where(chosen.valid, chosen.samples.lengths, 0)
            shared = chosen.samples.prompt_lengths if branches else None
            layout = pack.make_layout(
                lengths,
                chosen.samples.tokens.shape[1],
                multiple,
                prompts=shared,
                group=config.group,
            )
        rows, more, own = score(params, sampler, frozen, chosen, layout)
        return rows, {**told, **more}, {**metrics, **own}

    return experience


def credited(
    config: settings.GroupConfig, needs: Needs, chosen: rollouts.Groups, scored: Scored
) -> tuple[dict[str, jax.Array], jax.Array | None, dict[str, mean.Mean]]:
    """(columns that the loss reads beside tokens, largest drift in nats a token, metrics).

    The drift is None where the loss finds it.
    """
    samples, mask = chosen.samples, chosen.samples.mask
    arrays: dict[str, Any] = {
        "mask": mask,
        "rewards": chosen.reward,
        "valid": chosen.valid,
        "parts": chosen.parts,
        "greedy_rewards": chosen.greedy,
    }
    rows: dict[str, jax.Array] = {}
    if needs.reference:
        assert scored.reference_logprobs is not None
        arrays["reference_logprobs"] = scored.reference_logprobs
        rows["reference_logprobs"] = scored.reference_logprobs
    if needs.sampler:
        rows["sampler_logprobs"] = samples.logprobs
    if scored.stats is None:
        rows["drawn_logprobs"] = samples.logprobs
        rows["advantages"] = estimate(config, arrays, config.group)
        return rows, None, {}
    logprobs = scored.stats.logprob
    arrays |= {"old_logprobs": logprobs, "logprobs": logprobs}
    if scored.stats.sum_p2 is not None:
        arrays["sum_p2"] = scored.stats.sum_p2
    metrics = {"entropy": mean.masked(scored.stats.entropy, mask)}
    if needs.reference:
        arrays["kl"] = losses.k1(logprobs, arrays["reference_logprobs"], mask)
        metrics["kl"] = mean.masked(jnp.sum(arrays["kl"], axis=1), chosen.valid)
    advantages = estimate(config, arrays, config.group)
    then = logprobs if scored.sampled_logprobs is None else scored.sampled_logprobs
    own = mask if chosen.replayed is None else mask & ~chosen.replayed[:, None]
    drift = jnp.max(jnp.where(own, jnp.abs(then - samples.logprobs), 0.0), initial=0.0)
    metrics["drift"] = mean.of(drift)
    if config.correction != "off":
        weight = correction(config, logprobs, samples)
        metrics["correction"] = mean.masked(weight, mask)
        advantages = _times(config, advantages, weight, mask)
    rows["advantages"] = advantages
    if needs.old:
        rows["old_logprobs"] = logprobs
    return rows, drift, metrics


def shown(chosen: rollouts.Groups, advantages: jax.Array, count: int) -> dict[str, Any]:
    """The first rows of what is worth a look, whole on every device; advantages: [R] or [R, T]."""
    samples = chosen.samples
    worth = {
        "tokens": samples.tokens,
        "mask": samples.mask,
        "lengths": samples.lengths,
        "prompt_lengths": samples.prompt_lengths,
        "ended": samples.ended,
        "task": samples.task,
        "reward": chosen.reward,
        "valid": chosen.valid,
        "parts": chosen.parts,
        "advantages": advantages,
    }
    return jax.tree.map(
        lambda x: axes.take(x, jnp.arange(count), " ".join(["slot"] * x.ndim)), worth
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


def _times(
    config: settings.GroupConfig, advantages: jax.Array, weight: jax.Array, mask: jax.Array
) -> jax.Array:
    """Advantages [R] or [R, T] times weights [R, T]; [R] where neither differs within a row."""
    if advantages.ndim == 2:
        return advantages * weight
    if config.correction_level != "token":  # the row's weight at its tokens, 0 behind them
        return advantages * jnp.max(weight, axis=1)
    return advantages[:, None] * jnp.where(mask, weight, 0.0)


def estimate(config: settings.GroupConfig, arrays: Mapping[str, Any], size: int) -> jax.Array:
    """Advantages [R] of rows, or [R, T] of tokens; 0 on rows that do not count.

    arrays: rewards [R], valid [R], mask, log-probabilities, and what else the estimator reads.
    """
    mask, valid = arrays["mask"], arrays["valid"]
    reward: jax.Array = arrays["rewards"]
    kl: Any = arrays.get("kl")
    recipe, beta = config.credit, config.kl_in_reward
    own_kl = recipe is not None and "kl_weight" in recipe.defaults
    of_tokens = recipe is not None and (recipe.score, recipe.link) in OF_TOKENS
    if of_tokens:
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
    if "reward_weights" in recipe.reads:
        parts = {name: rollouts.in_groups(x, size) for name, x in arrays["parts"].items()}
        there = rollouts.in_groups(valid, size)[..., None]
        given["rewards"] = jnp.where(there, jnp.stack([*parts.values()], axis=-1), jnp.nan)
        weights = dict(zip(config.part_names, config.part_weights, strict=True))
        own = [weights[name.partition("/")[0]] for name in parts]  # rules may have parts themselves
        given["reward_weights"] = jnp.asarray(own, jnp.float32)
    elif "greedy_rewards" in recipe.reads and not of_tokens:
        given["rewards"] = jnp.where(valid, reward, 0.0)
    found = recipe(given, **config.estimator_options())
    if own_kl and not beta and found.shape == mask.shape:
        # Without a KL of tokens these are the row's own number at each of its tokens.
        tokens = jnp.maximum(jnp.sum(mask, axis=1), 1)
        return jnp.sum(jnp.where(mask, found, 0.0), axis=1) / tokens
    if found.shape == mask.shape:
        return jnp.where(mask, found, 0.0)
    return jnp.where(valid, found.reshape(-1), 0.0)


def per_token(config: settings.GroupConfig) -> bool:
    """Whether advantages are of tokens, [R, T], not of rows, [R]."""
    rows = jax.ShapeDtypeStruct((config.group,), jnp.float32)
    wide = jax.ShapeDtypeStruct((config.group, 4), jnp.float32)
    names = ("mask", "old_logprobs", "logprobs", "sum_p2", "reference_logprobs", "kl")
    arrays = {
        **dict.fromkeys(names, wide),
        **dict.fromkeys(("rewards", "greedy_rewards"), rows),
        "valid": jax.ShapeDtypeStruct((config.group,), jnp.bool_),
        "parts": dict.fromkeys(config.part_names, rows),
    }
    found = jax.eval_shape(lambda arrays: estimate(config, arrays, config.group), arrays)
    by_token = config.correction != "off" and config.correction_level == "token"
    return len(found.shape) == 2 or by_token
