"""Policy-gradient losses whose action is the whole response: ratios and sums over its tokens.

Arguments as in policy.py; advantages are [B]. Rows without a counted token give 0.
"""

import math

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs, policy

LOWEST_WEIGHT = 1e-8  # of VESPO; what lies below has phi = 0 in any case


def _rows(
    mask: jax.Array | None, advantages: jax.Array, **named: jax.Array
) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """(mask, advantages [B] without gradient, arrays [B, T])."""
    first, x = next(iter(named.items()))
    sizes = shapes.check(first, x, "B T")
    shapes.check("advantages", advantages, "B", {"B": sizes["B"]})
    keep, *values = inputs.masked("B T", mask, **named)
    some = jnp.any(keep, axis=-1)
    weights = jnp.where(some, inputs.as_float(advantages), 0.0)
    return keep, jax.lax.stop_gradient(weights), values


def sequence_ratio(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    mask: jax.Array | None = None,
    *,
    normalise: bool = True,
) -> jax.Array:
    """pi(y|x) / old(y|x), [B], to the power 1 / |y| if `normalise`; exponents within +-20 nats.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Zheng et al. (2025, GSPO), arXiv 2507.18071, equation 7.
    """
    keep, new, old = inputs.masked("B T", mask, logprobs=logprobs, old_logprobs=old_logprobs)
    log_ratio = jnp.sum(new - jax.lax.stop_gradient(old), axis=-1)
    if normalise:
        log_ratio = log_ratio / inputs.count(keep)
    return jnp.exp(inputs.safe_log_ratio(log_ratio, jnp.zeros_like(log_ratio)))


def gspo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    dual_clip: float | None = None,
) -> jax.Array:
    """Group sequence policy optimisation, [B]: -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A).

    s = (pi(y|x) / old(y|x))^(1 / |y|). On responses of one token it is `ppo_clip`.

    Args:
      logprobs, old_logprobs: [B, T] float, nats.
      advantages: [B] float.
      mask: [B, T], 1 on the response's tokens; None counts all.
      clip_low: in (0, 1]. clip_high: > 0. Far smaller than for token ratios.
      dual_clip: as `ppo_clip`.

    Returns:
      [B] fp32 losses.

    Raises:
      ValueError: shapes differ, a range is wrong, mask not 0/1.

    Reference: Zheng et al. (2025, GSPO), equation 5; ranges: section 5.1.
    """
    keep, advantages, (new, old) = _rows(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    ratio = sequence_ratio(new, old, keep)
    return policy.clipped_surrogate(
        ratio, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )


def gspo_token(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    dual_clip: float | None = None,
) -> jax.Array:
    """GSPO with advantages per token, [B, T]: ratio sg(s) pi_t / sg(pi_t), clipped as in `gspo`.

    With one advantage per row its `row_mean` equals GSPO in value and gradient.

    Args, Raises: as `gspo`; advantages [B, T] or [B].

    Returns:
      [B, T] fp32 token losses, 0 where masked.

    Reference: Zheng et al. (2025, GSPO), equations 13 and 14.
    """
    keep, advantages, new, old = policy.aligned(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    ratio = jax.lax.stop_gradient(sequence_ratio(new, old, keep))[:, None]
    ratio = ratio * jnp.exp(new - jax.lax.stop_gradient(new))
    return policy.clipped_surrogate(
        ratio, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )


def luspo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> jax.Array:
    """Length-unbiased sequence policy optimisation, [B]: |y| times the loss of `gspo`.

    Args, Returns, Raises: as `gspo`. Reference: LUSPO, arXiv 2602.05261.
    """
    (keep, _) = inputs.masked("B T", mask, logprobs=logprobs)
    losses = gspo(logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high)
    return losses * inputs.count(keep)


def gmpo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 0.4,
    clip_high: float = 0.4,
) -> jax.Array:
    """Geometric-mean policy optimisation, [B]: -A (prod_t clipped rho_t)^(1 / |y|).

    Token log-ratios are clipped on the side that the advantage pushes to: at most clip_high for
    A > 0, at least -clip_low for A < 0 (in nats, so ratios within e^+-0.4 by default).

    Args:
      logprobs, old_logprobs: [B, T] float, nats.
      advantages: [B] float.
      mask: [B, T], 1 on the response's tokens; None counts all.
      clip_low, clip_high: > 0, nats.

    Returns:
      [B] fp32 losses.

    Raises:
      ValueError: shapes differ, clip_low or clip_high <= 0, mask not 0/1.

    Reference: Zhao et al. (2025, GMPO), arXiv 2507.20673.
    """
    shapes.check_number("clip_low", clip_low, above=0)
    shapes.check_number("clip_high", clip_high, above=0)
    keep, advantages, (new, old) = _rows(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    log_ratio = inputs.safe_log_ratio(new, jax.lax.stop_gradient(old))
    positive = (advantages >= 0)[:, None]
    log_ratio = jnp.where(
        positive, jnp.minimum(log_ratio, clip_high), jnp.maximum(log_ratio, -clip_low)
    )
    return -advantages * jnp.exp(jnp.sum(log_ratio, axis=-1) / inputs.count(keep))


def rloo(logprobs: jax.Array, advantages: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """REINFORCE on whole responses, [B]: -A log pi(y|x), with A from `leave_one_out`.

    The paper's reward includes -beta log(pi / ref) of the response (`kl_penalty`, summed).

    Args:
      logprobs: [B, T] float, nats.
      advantages: [B] float.
      mask: [B, T], 1 on the response's tokens; None counts all.

    Returns:
      [B] fp32 losses.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Ahmadian et al. (2024, RLOO), arXiv 2402.14740.
    """
    _, advantages, (new,) = _rows(mask, advantages, logprobs=logprobs)
    return -advantages * jnp.sum(new, axis=-1)


def rloo_clip(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> jax.Array:
    """`rloo` for several steps on one batch, [B]: PPO's clip on the ratio of whole responses.

    -min(R A, clip(R, 1 - clip_low, 1 + clip_high) A), R = pi(y|x) / old(y|x), not normalised.

    Args, Returns, Raises: as `gspo`.
    """
    keep, advantages, (new, old) = _rows(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    ratio = sequence_ratio(new, old, keep, normalise=False)
    return policy.clipped_surrogate(ratio, advantages, clip_low=clip_low, clip_high=clip_high)


def vespo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    sampler_weights: jax.Array | None = None,
    *,
    positive: tuple[float, float] = (2.0, 3.0),
    negative: tuple[float, float] = (3.0, 2.0),
) -> jax.Array:
    """Variational sequence-level soft policy optimisation, [B, T]: -phi A log pi_t.

    phi = exp(lam + k log w - lam w) without gradient, w = pi(y|x) / old(y|x) times the sampler's
    weights, within [1e-8, e^20]: 1 on policy, falling on both sides of w = k / lam.

    Args:
      logprobs, old_logprobs: [B, T] float, nats.
      advantages: [B] float.
      mask: [B, T], 1 on the response's tokens; None counts all.
      sampler_weights: [B, T] from `sampler_weight(level="token")`; None: the sampler was old.
      positive, negative: (k, lam), both > 0, for A >= 0 and for A < 0.

    Returns:
      [B, T] fp32 token losses, 0 where masked.

    Raises:
      ValueError: shapes differ, a k or lam <= 0, mask not 0/1.

    Reference: Shen et al. (2026, VESPO), arXiv 2602.10693.
    """
    for name, pair in {"positive": positive, "negative": negative}.items():
        shapes.check_number(f"{name}[0]", pair[0], above=0)
        shapes.check_number(f"{name}[1]", pair[1], above=0)
    keep, advantages, (new, old) = _rows(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    log_w = inputs.safe_log_ratio(new, old)
    if sampler_weights is not None:
        (weights,) = inputs.arrays("B T", sampler_weights=sampler_weights)
        weights = jnp.where(keep, jnp.maximum(weights, LOWEST_WEIGHT), 1.0)
        log_w = log_w + jnp.minimum(jnp.log(weights), inputs.MAX_LOG_RATIO)
    log_w = jnp.clip(jnp.sum(log_w, axis=-1), math.log(LOWEST_WEIGHT), inputs.MAX_LOG_RATIO)
    up = advantages >= 0
    k = jnp.where(up, positive[0], negative[0])
    lam = jnp.where(up, positive[1], negative[1])
    phi = jax.lax.stop_gradient(jnp.exp(lam + k * log_w - lam * jnp.exp(log_w)))
    return -(phi * advantages)[:, None] * new
