"""Policy-gradient losses and their diagnostics, one per token.

Arrays are aligned with the token they predict; mask is 1 on the response's tokens. Advantages are
[B, T], or [B] for one per sequence. A masked entry gives exactly 0 and no gradient, whatever it
holds. Reduce with `token_mean`, `sequence_mean` and the like (reductions.py).
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs


def aligned(mask: jax.Array | None, advantages: jax.Array, **named: jax.Array) -> list[jax.Array]:
    """[mask, advantages, *arrays], all [B, T]: entries checked and zero where masked.

    Advantages [B] are repeated over the tokens; no gradient flows into them.
    """
    first = next(iter(named.values()))
    if jnp.ndim(advantages) == 1:
        sizes = shapes.check(next(iter(named)), first, "B T")
        shapes.check("advantages", advantages, "B", {"B": sizes["B"]})
        advantages = jnp.broadcast_to(jnp.asarray(advantages)[:, None], jnp.shape(first))
    keep, *values, advantages = inputs.masked("B T", mask, **named, advantages=advantages)
    return [keep, jax.lax.stop_gradient(advantages), *values]


def clip_range(clip_low: float, clip_high: float) -> tuple[float, float]:
    """(1 - clip_low, 1 + clip_high) after checking clip_low in (0, 1] and clip_high > 0."""
    shapes.check_number("clip_low", clip_low, above=0, maximum=1)
    shapes.check_number("clip_high", clip_high, above=0)
    return 1.0 - clip_low, 1.0 + clip_high


def importance_ratio(
    logprobs: jax.Array, old_logprobs: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """pi / old per token, [B, T] fp32, 1 where masked; the log-ratio is limited to +-20 nats.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.
    """
    _, logprobs, old = inputs.masked("B T", mask, logprobs=logprobs, old_logprobs=old_logprobs)
    return jnp.exp(inputs.safe_log_ratio(logprobs, jax.lax.stop_gradient(old)))


def clipped_surrogate(
    ratio: jax.Array,
    advantages: jax.Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> jax.Array:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), for arrays of one shape.

    The one place where a ratio is clipped: PPO, GRPO, GSPO and RLOO all call it. With dual_clip = c
    the objective of A < 0 is kept above c A, so that a huge ratio cannot push without bound.

    Raises:
      ValueError: clip_low outside (0, 1], clip_high <= 0, dual_clip <= 1.
    """
    low, high = clip_range(clip_low, clip_high)
    objective = jnp.minimum(ratio * advantages, jnp.clip(ratio, low, high) * advantages)
    if dual_clip is not None:
        c = shapes.check_number("dual_clip", dual_clip, above=1)
        objective = jnp.where(advantages < 0, jnp.maximum(objective, c * advantages), objective)
    return -objective


def ppo_clip(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> jax.Array:
    """Clipped surrogate per token, [B, T]: -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A).

    rho = exp(logprobs - old_logprobs). No gradient flows into old_logprobs or advantages.

    Args:
      logprobs: [B, T] float, nats, of the policy that is trained.
      old_logprobs: [B, T] float, nats, of the policy that sampled.
      advantages: [B, T] or [B] float.
      mask: [B, T], 1 on the response's tokens; None counts all.
      clip_low: in (0, 1].
      clip_high: > 0; larger than clip_low is DAPO's clip-higher.
      dual_clip: None, or c > 1: for A < 0 the loss is at most -c A.

    Returns:
      [B, T] fp32 token losses, 0 where masked.

    Raises:
      ValueError: shapes differ, a hyperparameter outside its range, mask not 0/1.

    Reference: Schulman et al. (2017), equation 7; dual clip: Ye et al. (2020), equation 5;
    asymmetric range: Yu et al. (2025, DAPO), equation 10.
    """
    _, advantages, logprobs, old = aligned(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    ratio = jnp.exp(inputs.safe_log_ratio(logprobs, jax.lax.stop_gradient(old)))
    return clipped_surrogate(
        ratio, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )


def clip_fraction(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> jax.Array:
    """[B, T]: 1 where the clip is active (it stops the gradient), else 0; average it over the mask.

    Active: rho > 1 + clip_high with A > 0, or rho < 1 - clip_low with A < 0.

    Raises:
      ValueError: as `ppo_clip`.
    """
    low, high = clip_range(clip_low, clip_high)
    keep, advantages, logprobs, old = aligned(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    ratio = jnp.exp(inputs.safe_log_ratio(logprobs, old))
    active = ((ratio > high) & (advantages > 0)) | ((ratio < low) & (advantages < 0))
    return jax.lax.stop_gradient((keep & active).astype(ratio.dtype))


def approx_kl(
    logprobs: jax.Array, old_logprobs: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Per-token estimate of KL(old; pi) on tokens sampled from old, [B, T]: rho - 1 - log rho >= 0.

    No gradient. A measure of how far the update has gone, not a penalty.

    Raises:
      ValueError: as `importance_ratio`.

    Reference: Schulman (2020), "Approximating KL divergence", k3.
    """
    _, logprobs, old = inputs.masked("B T", mask, logprobs=logprobs, old_logprobs=old_logprobs)
    log_ratio = inputs.safe_log_ratio(logprobs, old)
    return jax.lax.stop_gradient(jnp.expm1(log_ratio) - log_ratio)


def reinforce(
    logprobs: jax.Array, advantages: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Score-function loss per token, [B, T]: -A log pi. No gradient flows into the advantages.

    Args:
      logprobs: [B, T] float, nats.
      advantages: [B, T] or [B] float.
      mask: [B, T], 1 on the response's tokens; None counts all.

    Returns:
      [B, T] fp32 token losses, 0 where masked. Summed over tokens, averaged over sequences, the
      gradient is the unbiased policy gradient.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Williams (1992, REINFORCE).
    """
    _, advantages, logprobs = aligned(mask, advantages, logprobs=logprobs)
    return -advantages * logprobs


def value_clip(
    values: jax.Array,
    old_values: jax.Array,
    returns: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip: float | None = 0.2,
) -> jax.Array:
    """Clipped value loss, [B, T]: max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2.

    No gradient flows into old_values or returns.

    Args:
      values: [B, T] float, reward units, of the value function that is trained.
      old_values: [B, T] float, at the time of sampling.
      returns: [B, T] float, targets.
      mask: [B, T], 1 on the response's tokens; None counts all.
      clip: c > 0, reward units; None is the plain squared error.

    Returns:
      [B, T] fp32 losses, 0 where masked.

    Raises:
      ValueError: shapes differ, clip <= 0 or not finite, mask not 0/1.

    Reference: Schulman et al. (2017), section 5; Huang et al. (2022), "The 37 implementation
    details of PPO", detail 9.
    """
    _, values, old, returns = inputs.masked(
        "B T", mask, values=values, old_values=old_values, returns=returns
    )
    old, returns = jax.lax.stop_gradient((old, returns))
    squared = jnp.square(values - returns)
    if clip is None:
        return 0.5 * squared
    c = shapes.check_number("clip", clip, above=0)
    near = old + jnp.clip(values - old, -c, c)
    return 0.5 * jnp.maximum(squared, jnp.square(near - returns))
