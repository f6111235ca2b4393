"""Policy-gradient losses from token log-probabilities: surrogate o weights o reduction.

Arrays: logprobs, and where used old_logprobs (absent: the policy itself, without gradient),
reference_logprobs, sampler_logprobs (NaN where missing), [B, T] in nats; advantages [B] (or [B, T]
for token ratios); mask [B, T]; entropy [B, T] in nats; optional row_mask [B], 1 for the rows
that means over rows count: rows with a token unless given (TRL also counts a truncated answer whose
tokens are all masked). rho: pi / old of a token; s: of a response, to the power 1 / |y|.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.recipe import Arrays, Terms
from alignjax.core import mean, shapes

Reduce = Callable[[jax.Array, Arrays], mean.Mean]


# --- reductions: token losses [B, T] -> Mean ---
def rows(arrays: Arrays) -> jax.Array:
    """[B]: rows that count: those with a token unless the batch has a row_mask."""
    if "row_mask" in arrays:
        return jnp.asarray(arrays["row_mask"]) != 0
    return jnp.any(jnp.asarray(arrays["mask"]) != 0, axis=-1)


def token_mean(values: jax.Array, arrays: Arrays) -> mean.Mean:
    """Over all counted tokens."""
    return losses.token_mean(values, arrays["mask"])


def row_mean(values: jax.Array, arrays: Arrays) -> mean.Mean:
    """Over the tokens of each row, then over all rows."""
    return losses.row_mean(values, arrays["mask"], rows=rows(arrays))


def row_sum(values: jax.Array, arrays: Arrays) -> mean.Mean:
    """Summed over the tokens of each row, then averaged over all rows."""
    return losses.row_sum(values, arrays["mask"], rows=rows(arrays))


def row_fixed(length: float) -> Reduce:
    """Summed over the tokens of each row, over `length`, then averaged over all rows."""
    return lambda values, arrays: losses.row_fixed(
        values, arrays["mask"], length=length, rows=rows(arrays)
    )


def group_mean(group_size: int) -> Reduce:
    """Over all tokens of a prompt's samples, then over prompts."""
    return lambda values, arrays: losses.group_mean(values, arrays["mask"], group_size=group_size)


def over_rows(values: jax.Array, arrays: Arrays) -> mean.Mean:
    """The mean over all rows of losses [B]."""
    return mean.masked(values, rows(arrays))


def scaled(term: mean.Mean, factor: float) -> mean.Mean:
    """`factor` times the mean."""
    return mean.Mean(total=factor * term.total, weight=term.weight)


# --- token losses [B, T] ---
def old_logprobs(arrays: Arrays) -> jax.Array:
    """Those of the policy that sampled; the present ones if the batch holds none."""
    name = "old_logprobs" if "old_logprobs" in arrays else "logprobs"
    return jax.lax.stop_gradient(jnp.asarray(arrays[name]))


def inputs(arrays: Arrays) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(logprobs, old_logprobs, advantages, mask): what most policy losses take."""
    return arrays["logprobs"], old_logprobs(arrays), arrays["advantages"], arrays["mask"]


def spread(per_row: jax.Array, arrays: Arrays) -> jax.Array:
    """Losses [B] at every token of their row, [B, T]."""
    return jnp.broadcast_to(per_row[:, None], jnp.shape(arrays["mask"]))


def clipped(
    arrays: Arrays,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    level: str = "token",
) -> jax.Array:
    """PPO's clip per token, [B, T], of the ratio of `level`.

    "token": rho; "sequence": s, the same for all tokens of a row; "sequence_token": sg(s) with the
    gradient of each token's log-probability.
    """
    surrogates = {
        "token": losses.ppo_clip,
        "sequence": losses.gspo,
        "sequence_token": losses.gspo_token,
    }
    shapes.check_choice("level", level, surrogates)
    found = surrogates[level](
        *inputs(arrays), clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )
    return spread(found, arrays) if level == "sequence" else found


def two_sided(
    arrays: Arrays, *, clip_high: float, dual_clip: float | None, **options: Any
) -> jax.Array:
    """`clipped` where the reference bounds the ratio itself from above by dual_clip (TRL's delta).

    From 1 + clip_high on that is the dual clip: it binds for A < 0 alone. Below, it would undo
    clip_high.

    Raises:
      ValueError: dual_clip < 1 + clip_high.
    """
    if dual_clip is not None:
        shapes.check_number("dual_clip", dual_clip, minimum=1.0 + clip_high)
    return clipped(arrays, clip_high=clip_high, dual_clip=dual_clip, **options)


# --- weights on token losses, without gradient ---
def sampler_weights(
    arrays: Arrays,
    *,
    level: str | None,
    beyond: str,
    maximum: float | None,
    minimum: float | None = None,
) -> Any:
    """Trainer over sampler, [B, T]; 1 if `level` is None or the batch has no sampler_logprobs."""
    if level is None or "sampler_logprobs" not in arrays:
        return 1.0
    return losses.sampler_weight(
        old_logprobs(arrays),
        arrays["sampler_logprobs"],
        arrays["mask"],
        level=level,
        beyond=beyond,
        maximum=maximum,
        minimum=minimum,
    )


def entropy_mask(arrays: Arrays, share: float) -> Any:
    """The mask, or its tokens in the top `share` of entropies: those at their quantile or above."""
    if share == 1.0:
        return arrays["mask"]
    return losses.above_quantile(arrays["entropy"], arrays["mask"], quantile=1.0 - share)


# --- terms beside the policy's ---
def kl_term(
    arrays: Arrays,
    reduce: Reduce,
    *,
    weight: float,
    estimator: str = "k3",
    ratio: str | None = None,
) -> Terms:
    """{"kl": weight * KL to the reference}, times the ratio of `ratio` if asked; {} at weight 0."""
    if weight == 0.0:
        return {}
    given = arrays["reference_logprobs"], arrays["mask"]
    if ratio is None:
        per_token = losses.kl_loss(arrays["logprobs"], *given, estimator=estimator)
    else:
        per_token = losses.kl_loss_weighted(
            arrays["logprobs"], old_logprobs(arrays), *given, estimator=estimator, level=ratio
        )
    return {"kl": scaled(reduce(per_token, arrays), weight)}


def entropy_term(arrays: Arrays, *, weight: float, share: float = 1.0) -> Terms:
    """{"entropy": -weight * token mean of the entropy}, over its top share; {} at weight 0."""
    if weight == 0.0:
        return {}
    keep = entropy_mask(arrays, share)
    bonus = losses.entropy_bonus(arrays["entropy"], keep)
    return {"entropy": scaled(losses.token_mean(bonus, keep), weight)}


def valid(rewards: jax.Array) -> jax.Array:
    """Booleans: rewards that are there; a missing one is NaN."""
    return ~jnp.isnan(jnp.asarray(rewards))


def in_groups(
    rewards: jax.Array, *, scale: str, eps: float = 1e-4, unbiased: bool = True
) -> jax.Array:
    """Group-relative advantages [B, N] of rewards [B, N] that may hold NaN.

    scale: "group" or "batch" to divide by that standard deviation + eps, "none" not to.
    """
    shapes.check_choice("scale", scale, ("group", "batch", "none"))
    whose = {} if scale == "none" else {"spread": scale}
    return losses.group_relative(
        rewards, valid(rewards), scale=scale != "none", eps=eps, unbiased=unbiased, **whose
    )


# --- `compute` of recipes ---
def token_recipe(
    loss: Callable[..., jax.Array], reduce: Reduce = token_mean
) -> Callable[..., Terms]:
    """`compute` of loss(logprobs, old_logprobs, advantages, mask, **options), [B, T] or [B]."""

    def compute(arrays: Arrays, **options: Any) -> Terms:
        return {"policy": reduce(loss(*inputs(arrays), **options), arrays)}

    return compute


def value_recipe(arrays: Arrays, *, clip: float | None, weight: float = 1.0) -> Terms:
    """`compute` of `losses.value_clip` (with its 1/2), averaged over tokens."""
    given = (arrays[name] for name in ("values", "old_values", "returns", "mask"))
    return {"value": scaled(token_mean(losses.value_clip(*given, clip=clip), arrays), weight)}
