"""Links of estimates: (rewards, arrays, **options) -> array.

Arrays as in `estimates`; for an adaptive KL coefficient, observed, samples; for ReMax
greedy_rewards [B]; for TRL's PPO scores [B].
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays
from alignjax.compat.blocks import kl
from alignjax.compat.blocks import options as settings
from alignjax.compat.blocks.policy_links import with_next_slot
from alignjax.core import shapes


def is_valid(rewards: Any) -> jax.Array:
    """Booleans: rewards that are there; a missing one is NaN."""
    return ~jnp.isnan(jnp.asarray(rewards))


def at_last_token(per_row: Any, mask: Any) -> jax.Array:
    """Values [B] (or [P, N]) at the last counted token of their rows, [B, T], 0 elsewhere."""
    keep = jnp.asarray(mask) != 0
    later = jnp.cumsum(keep[:, ::-1], axis=-1)[:, ::-1]
    return jnp.where(keep & (later == 1), jnp.reshape(per_row, (-1, 1)), 0.0)


def over_tokens(per_sample: Any, mask: Any) -> jax.Array:
    """Values [P, N] at all counted tokens of their rows, [B, T], 0 elsewhere."""
    return jnp.where(jnp.asarray(mask) != 0, jnp.reshape(per_sample, (-1, 1)), 0.0)


def identity(rewards: Any, arrays: Arrays) -> Any:
    """What the score gave."""
    return rewards


# --- of single tokens ---
def gae(rewards: Any, arrays: Arrays, *, discount: float, decay: float) -> jax.Array:
    """[B, T]: advantages of `losses.gae`."""
    both = arrays["values"], arrays["mask"]
    return losses.gae(rewards, *both, discount=discount, decay=decay)[0]


def returns(rewards: Any, arrays: Arrays, *, discount: float, decay: float) -> jax.Array:
    """[B, T]: returns of `losses.gae`."""
    both = arrays["values"], arrays["mask"]
    return losses.gae(rewards, *both, discount=discount, decay=decay)[1]


def to_go(rewards: Any, arrays: Arrays, *, discount: float = 1.0) -> jax.Array:
    """[B, T]: discounted sums of the rewards from each token on."""
    return losses.discounted_returns(rewards, arrays["mask"], discount=discount)


# --- of samples in groups, [P, N] ---
def group_relative(
    rewards: Any,
    arrays: Arrays,
    *,
    scale: bool,
    eps: float,
    unbiased: bool = True,
    spread: str = "group",
) -> jax.Array:
    """`losses.group_relative` of the rewards that are there."""
    numbers: dict[str, Any] = {"scale": scale, "eps": eps, "unbiased": unbiased, "spread": spread}
    return losses.group_relative(rewards, is_valid(rewards), **numbers)


def group_relative_by(rewards: Any, arrays: Arrays, *, scale: str) -> jax.Array:
    """The same; scale is "group" or "batch" to divide by that standard deviation, "none" not to."""
    shapes.check_choice("scale", scale, ("group", "batch", "none"))
    spread = "group" if scale == "none" else scale
    keep = is_valid(rewards)
    return losses.group_relative(rewards, keep, scale=scale != "none", spread=spread)


def group_baseline(rewards: Any, arrays: Arrays) -> jax.Array:
    """Rewards less their group's mean."""
    return losses.group_relative(rewards, is_valid(rewards), scale=False)


def leave_one_out(rewards: Any, arrays: Arrays) -> jax.Array:
    """`losses.leave_one_out` of the rewards that are there."""
    return losses.leave_one_out(rewards, is_valid(rewards))


def leave_one_out_of_penalised(
    rewards: Any,
    arrays: Arrays,
    *,
    kl_weight: float,
    clip: tuple[float, float] | None,
    whiten: bool,
) -> jax.Array:
    """`leave_one_out` of rewards within `clip`, less kl_weight * k1 of the response (TRL)."""
    rewards = jnp.asarray(rewards)
    keep = is_valid(rewards)
    if clip is not None:
        rewards = jnp.clip(rewards, *clip)
    if not settings.is_off("kl_weight", kl_weight):
        both = (arrays[name] for name in ("old_logprobs", "reference_logprobs", "mask"))
        rewards = rewards - kl_weight * jnp.sum(losses.kl_penalty(*both), -1).reshape(keep.shape)
    estimate = losses.leave_one_out(rewards, keep)
    if not whiten:
        return estimate
    # A lone sample has no baseline, so that it has no advantage to normalise either.
    return _over_batch(estimate, keep & (jnp.sum(keep, axis=-1, keepdims=True) > 1))


def gpg(rewards: Any, arrays: Arrays) -> jax.Array:
    """`losses.gpg` of the rewards that are there."""
    return losses.gpg(rewards, is_valid(rewards))


def opo(rewards: Any, arrays: Arrays) -> jax.Array:
    """`losses.opo` of the rewards that are there; lengths from the mask."""
    lengths = jnp.sum(jnp.asarray(arrays["mask"]) != 0, axis=-1).reshape(jnp.shape(rewards))
    return losses.opo(rewards, lengths, is_valid(rewards))


def max_rl(rewards: Any, arrays: Arrays) -> jax.Array:
    """`losses.max_rl` of the rewards that are there."""
    return losses.max_rl(rewards, is_valid(rewards))


def pass_at_k(rewards: Any, arrays: Arrays) -> jax.Array:
    """`losses.pass_at_k` of the rewards that are there."""
    return losses.pass_at_k(rewards, is_valid(rewards))


def otb(rewards: Any, arrays: Arrays) -> jax.Array:
    """[B, T]: `losses.otb` of rewards [P, N] at the last tokens of the samples that have one."""
    there = is_valid(rewards).reshape(-1, 1)
    mask = (jnp.asarray(arrays["mask"]) != 0) & there
    earned = at_last_token(jnp.where(there[:, 0], jnp.reshape(rewards, -1), 0.0), mask)
    wide = (*jnp.shape(rewards), mask.shape[-1])
    named = (earned, arrays["old_logprobs"], arrays["sum_p2"], mask)
    return losses.otb(*(jnp.reshape(x, wide) for x in named)).reshape(mask.shape)


def gdpo(rewards: Any, arrays: Arrays, *, eps: float) -> jax.Array:
    """`losses.gdpo` of rewards [P, N, K], of samples with all of them."""
    there = jnp.all(is_valid(rewards), axis=-1)
    return losses.gdpo(rewards, arrays["reward_weights"], there, eps=eps)


def gdpo_each_missing(rewards: Any, arrays: Arrays) -> jax.Array:
    """GDPO of rewards [P, N, K], each missing for itself; a sample without any gets 0 (TRL)."""
    rewards, weights = jnp.asarray(rewards), jnp.asarray(arrays["reward_weights"])

    def relative(rewards: jax.Array) -> jax.Array:
        return losses.group_relative(rewards, is_valid(rewards))

    parts = jax.vmap(relative, in_axes=-1, out_axes=-1)(rewards)
    return _over_batch(parts @ weights, jnp.any(is_valid(rewards), axis=-1))


def _over_batch(advantages: jax.Array, keep: jax.Array) -> jax.Array:
    """(A - mean) / (std + 1e-4) over the whole batch [P, N]."""
    one = losses.group_relative(advantages.reshape(1, -1), keep.reshape(1, -1))
    return one.reshape(advantages.shape)


# --- against a greedy answer ---
def remax(rewards: Any, arrays: Arrays) -> jax.Array:
    """`losses.remax`, [B]."""
    return losses.remax(rewards, arrays["greedy_rewards"])


def remax_to_go(rewards: Any, arrays: Arrays) -> jax.Array:
    """Sums of token rewards [B, T] from each token on, less the greedy answer's (verl)."""
    mask = arrays["mask"]
    sums = losses.discounted_returns(rewards, mask, discount=1.0)
    greedy = over_tokens(arrays["greedy_rewards"], mask)
    return jnp.reshape(losses.remax(sums.reshape(-1), greedy.reshape(-1)), sums.shape)


# --- TRL's PPO, whose score is in the slot after the answer ---
def score_in_next_slot(
    rewards: None, arrays: Arrays, *, kl_weight: float, estimator: str
) -> jax.Array:
    """-kl_weight k per token, + the score in the slot after the answer."""
    shapes.check_choice("estimator", estimator, ("k1", "k3"))
    slots = with_next_slot(arrays["mask"])
    last = slots & ~jnp.pad(slots, ((0, 0), (0, 1)))[:, 1:]
    scores = jnp.where(last, jnp.asarray(arrays["scores"])[:, None], 0.0)
    if settings.is_off("kl_weight", kl_weight):
        return scores
    both = (arrays[name] for name in ("old_logprobs", "reference_logprobs", "mask"))
    return scores - kl_weight * losses.kl_penalty(*both, estimator=estimator)


def _gae_to_next_slot(
    rewards: Any, arrays: Arrays, *, discount: float, decay: float, whiten_rewards: bool
) -> tuple[jax.Array, jax.Array]:
    slots = with_next_slot(arrays["mask"])
    if whiten_rewards:
        rewards = losses.whiten(rewards, slots, shift_mean=False, unbiased=True)
    return losses.gae(rewards, arrays["values"], slots, discount=discount, decay=decay)


def gae_to_next_slot(
    rewards: Any, arrays: Arrays, *, discount: float, decay: float, whiten_rewards: bool
) -> jax.Array:
    """`gae` over the answer and the slot after it."""
    numbers: dict[str, Any] = {"discount": discount, "decay": decay}
    return _gae_to_next_slot(rewards, arrays, **numbers, whiten_rewards=whiten_rewards)[0]


def returns_to_next_slot(
    rewards: Any, arrays: Arrays, *, discount: float, decay: float, whiten_rewards: bool
) -> jax.Array:
    """`returns` over the answer and the slot after it."""
    numbers: dict[str, Any] = {"discount": discount, "decay": decay}
    return _gae_to_next_slot(rewards, arrays, **numbers, whiten_rewards=whiten_rewards)[1]


# --- of log-probabilities alone ---
def kl_penalty(rewards: None, arrays: Arrays, *, estimator: str, cap: float | None) -> jax.Array:
    """KL to the reference per token, [B, T], within +-cap."""
    return kl.penalty(arrays, estimator=estimator, cap=cap)


def kl_penalty_with_k3_cut(rewards: None, arrays: Arrays, *, estimator: str) -> jax.Array:
    """The same, k3 within +-10 nats (verl)."""
    return kl.penalty(arrays, estimator=estimator, cap=kl.verl_cap(estimator))


def adaptive_kl(
    rewards: None, arrays: Arrays, *, target: float | None, horizon: float
) -> jax.Array:
    """`losses.adaptive_kl` of coefficient, observed, samples; fixed at target None."""
    numbers = [arrays[name] for name in ("coefficient", "observed", "samples")]
    if target is None:
        return jnp.asarray(numbers[0])
    return losses.adaptive_kl(*numbers, target=target, horizon=horizon)


def sampler_weight(
    rewards: None,
    arrays: Arrays,
    *,
    level: str,
    beyond: str,
    maximum: float | None,
    minimum: float | None,
) -> jax.Array:
    """`losses.sampler_weight`, [B, T]."""
    both = kl.old_logprobs(arrays), arrays["sampler_logprobs"], arrays["mask"]
    return losses.sampler_weight(
        *both, level=level, beyond=beyond, maximum=maximum, minimum=minimum
    )


def minillm(rewards: None, arrays: Arrays, *, discount: float, length_normalise: bool) -> jax.Array:
    """[B, T]: log teacher - log student of the token, or its discounted mean or sum to come."""
    mask = jnp.asarray(arrays["mask"])
    own = losses.k1(arrays["teacher_logprobs"], arrays["logprobs"], mask)
    sums = losses.discounted_returns(own, mask, discount=discount)
    if discount == 0.0:
        return sums
    if length_normalise:
        ones = jnp.ones_like(sums)
        lengths = losses.discounted_returns(ones, mask, discount=discount)
        return jnp.where(mask != 0, sums / jnp.where(mask != 0, lengths, 1.0), 0.0)
    return sums * discount ** jnp.arange(mask.shape[-1])[None]


LINKS: Mapping[str, Callable[..., Any]] = {
    "": identity,
    "adaptive_kl": adaptive_kl,
    "group_baseline": group_baseline,
    "gae": gae,
    "gae_to_next_slot": gae_to_next_slot,
    "gdpo": gdpo,
    "gdpo_each_missing": gdpo_each_missing,
    "gpg": gpg,
    "group_relative": group_relative,
    "group_relative_by": group_relative_by,
    "kl_penalty": kl_penalty,
    "kl_penalty_with_k3_cut": kl_penalty_with_k3_cut,
    "leave_one_out": leave_one_out,
    "leave_one_out_of_penalised": leave_one_out_of_penalised,
    "max_rl": max_rl,
    "minillm": minillm,
    "opo": opo,
    "otb": otb,
    "pass_at_k": pass_at_k,
    "remax": remax,
    "remax_to_go": remax_to_go,
    "returns": returns,
    "returns_to_next_slot": returns_to_next_slot,
    "sampler_weight": sampler_weight,
    "score_in_next_slot": score_in_next_slot,
    "to_go": to_go,
}
