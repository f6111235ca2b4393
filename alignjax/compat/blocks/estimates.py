"""Rewards, advantages, returns and coefficients: score o link o reduction, arrays without gradient.

Arrays: rewards [P, N] (N samples of each of P prompts, in the row order of [B, T] arrays, B = P N;
NaN where no reward function gave a score), [B, T] (per token) or, for GDPO, [P, N, K] with
reward_weights [K]; values [B, T]; mask [B, T]; logprobs, old_logprobs, reference_logprobs,
sampler_logprobs, teacher_logprobs [B, T] in nats.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays
from alignjax.compat.blocks import kl
from alignjax.compat.blocks import options as settings
from alignjax.compat.blocks.estimators import LINKS, at_last_token, is_valid, over_tokens

if TYPE_CHECKING:
    from alignjax.compat.recipe import Recipe


# --- scores: the rewards that an estimator starts from ---
def nothing(arrays: Arrays) -> None:
    """The link reads the arrays itself."""


def rewards(arrays: Arrays) -> Any:
    """Those of the arrays."""
    return arrays["rewards"]


def advantages(arrays: Arrays) -> Any:
    """Advantages that are there already."""
    return arrays["advantages"]


def minus_kl(arrays: Arrays, *, kl_weight: float, estimator: str, cap: float | None) -> jax.Array:
    """[B, T]: the score, within +-cap, at the last token, minus kl_weight * KL at every token."""
    return _minus_kl(arrays["rewards"], arrays, kl_weight, estimator, cap)


def _minus_kl(
    scores: Any, arrays: Arrays, kl_weight: float, estimator: str, cap: float | None
) -> jax.Array:
    at_end = at_last_token(kl.within(scores, cap), arrays["mask"])
    if settings.is_off("kl_weight", kl_weight):
        return at_end
    return at_end - kl_weight * kl.penalty(arrays, estimator=estimator, cap=kl.CAP)


def group_baseline_minus_kl(
    arrays: Arrays, *, kl_weight: float, estimator: str, cap: float | None
) -> jax.Array:
    """`minus_kl` of scores less their group's mean."""
    rewards = arrays["rewards"]
    centred = losses.group_relative(rewards, is_valid(rewards), scale=False)
    return _minus_kl(centred, arrays, kl_weight, estimator, cap)


def batch_baseline_minus_kl(
    arrays: Arrays, *, kl_weight: float, estimator: str, cap: float | None
) -> jax.Array:
    """`minus_kl` of scores less the batch's mean."""
    rewards = jnp.reshape(arrays["rewards"], (1, -1))
    centred = losses.group_relative(rewards, is_valid(rewards), scale=False)
    return _minus_kl(centred, arrays, kl_weight, estimator, cap)


def leave_one_out_minus_kl(
    arrays: Arrays, *, kl_weight: float, estimator: str, cap: float | None
) -> jax.Array:
    """`minus_kl` of scores less the mean of the group's others."""
    rewards = arrays["rewards"]
    centred = losses.leave_one_out(rewards, is_valid(rewards))
    return _minus_kl(centred, arrays, kl_weight, estimator, cap)


def group_relative_minus_kl(
    arrays: Arrays,
    *,
    kl_weight: float,
    estimator: str,
    cap: float | None,
    scale: bool,
    eps: float,
) -> jax.Array:
    """`minus_kl` of group-relative scores."""
    rewards = arrays["rewards"]
    relative = losses.group_relative(rewards, is_valid(rewards), scale=scale, eps=eps)
    return _minus_kl(relative, arrays, kl_weight, estimator, cap)


SCORES: Mapping[str, Callable[..., Any]] = {
    "": nothing,
    "advantages": advantages,
    "batch_baseline_minus_kl": batch_baseline_minus_kl,
    "group_baseline_minus_kl": group_baseline_minus_kl,
    "group_relative_minus_kl": group_relative_minus_kl,
    "leave_one_out_minus_kl": leave_one_out_minus_kl,
    "minus_kl": minus_kl,
    "rewards": rewards,
}


# --- reductions: how an estimate is normalised ---
def identity(x: jax.Array, arrays: Arrays) -> jax.Array:
    """As it is."""
    return x


def whitening(
    x: jax.Array,
    arrays: Arrays,
    *,
    shift_mean: bool = True,
    eps: float = 1e-8,
    unbiased: bool = False,
) -> jax.Array:
    """To mean 0 and variance 1 over all tokens."""
    return losses.whiten(x, arrays["mask"], shift_mean=shift_mean, eps=eps, unbiased=unbiased)


def whitening_unbiased(x: jax.Array, arrays: Arrays) -> jax.Array:
    """The same with the variance over n - 1."""
    return losses.whiten(x, arrays["mask"], unbiased=True)


def whitening_of_samples(x: jax.Array, arrays: Arrays, *, eps: float = 1e-8) -> jax.Array:
    """To mean 0 and variance 1 over the samples with a reward."""
    return losses.whiten(x, is_valid(arrays["rewards"]), eps=eps)


def whitening_over_tokens(x: jax.Array, arrays: Arrays) -> jax.Array:
    """Estimates of samples at every token of theirs, then `whitening_unbiased` (verl)."""
    return whitening_unbiased(over_tokens(x, arrays["mask"]), arrays)


def normalisation(x: jax.Array, arrays: Arrays, *, normalise: bool) -> jax.Array:
    """Over all tokens to mean 0, and to variance 1 if `normalise` (OpenRLHF)."""
    mask = arrays["mask"]
    if normalise:
        return losses.whiten(x, mask)
    flat = losses.group_relative(jnp.reshape(x, (1, -1)), jnp.reshape(mask, (1, -1)), scale=False)
    return jnp.reshape(flat, jnp.shape(x))


REDUCTIONS: Mapping[str, Callable[..., jax.Array]] = {
    "": identity,
    "normalisation": normalisation,
    "whitening_over_tokens": whitening_over_tokens,
    "whitening": whitening,
    "whitening_of_samples": whitening_of_samples,
    "whitening_unbiased": whitening_unbiased,
}


def compute(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> jax.Array:
    """An array, as the recipe's formula says."""
    score = settings.block(SCORES, "score", recipe.score)
    link = settings.block(LINKS, "link", recipe.link)
    reduce = settings.block(REDUCTIONS, "reduction", recipe.reduction)
    start = score(arrays, **settings.accepted(score, options))
    estimate = link(start, arrays, **settings.accepted(link, options))
    return reduce(estimate, arrays, **settings.accepted(reduce, options))
