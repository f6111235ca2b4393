"""Token-level policy-gradient losses that bound the ratio in other ways than PPO's clip.

Arguments as in policy.py: [B, T] arrays, advantages [B, T] or [B], 0 where masked.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs, policy, sequence_policy

ROUNDING = 1e-5  # nats by which two passes of one policy may differ on a token, in fp32


def _ratio(new: jax.Array, old: jax.Array, keep: jax.Array, level: str) -> jax.Array:
    """[B, T] of tokens, or [B, 1] of responses, to the power 1 / |y|."""
    shapes.check_choice("level", level, ("token", "sequence"))
    if level == "sequence":
        return sequence_policy.sequence_ratio(new, old, keep)[:, None]
    return policy.importance_ratio(new, old)


def cispo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    maximum_ratio: float = 5.0,
    minimum_ratio: float = 0.0,
    level: str = "token",
) -> jax.Array:
    """Clipped importance-sampling weight, [B, T]: -sg(clip(rho, min, max)) A log pi.

    The weight is clipped, not the update: every token keeps its gradient. Reduce by `token_mean`.

    Args:
      logprobs, old_logprobs: [B, T] float, nats.
      advantages: [B, T] or [B] float.
      mask: [B, T], 1 on the response's tokens; None counts all.
      maximum_ratio: > minimum_ratio, the paper's 1 + eps_high.
      minimum_ratio: in [0, 1), the paper's 1 - eps_low (0: none).
      level: "token", or "sequence" for the ratio of `sequence_ratio`.

    Returns:
      [B, T] fp32 token losses.

    Raises:
      ValueError: shapes differ, a bound out of range, mask not 0/1.

    Reference: MiniMax (2025, M1), equations 4 and 5.
    """
    shapes.check_number("minimum_ratio", minimum_ratio, minimum=0, below=1)
    shapes.check_number("maximum_ratio", maximum_ratio, above=minimum_ratio)
    keep, advantages, new, old = policy.aligned(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    ratio = _ratio(new, old, keep, level)
    weight = jax.lax.stop_gradient(jnp.clip(ratio, minimum_ratio, maximum_ratio))
    return -weight * advantages * new


def sapo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    positive_temperature: float = 1.0,
    negative_temperature: float = 1.05,
    level: str = "token",
) -> jax.Array:
    """Soft adaptive policy optimisation, [B, T]: -A (4 / tau) sig(tau (rho - 1)).

    A smooth gate in place of the clip, with slope 1 at rho = 1. tau is positive_temperature for
    A > 0 and negative_temperature otherwise.

    Args:
      logprobs, old_logprobs, advantages, mask: as `cispo`.
      positive_temperature, negative_temperature: > 0.
      level: as `cispo`.

    Raises:
      ValueError: shapes differ, a temperature <= 0, mask not 0/1.

    Reference: Gao et al. (2025, SAPO), arXiv 2511.20347.
    """
    shapes.check_number("positive_temperature", positive_temperature, above=0)
    shapes.check_number("negative_temperature", negative_temperature, above=0)
    keep, advantages, new, old = policy.aligned(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    tau = jnp.where(advantages > 0, positive_temperature, negative_temperature)
    ratio = _ratio(new, old, keep, level)
    return -advantages * jax.nn.sigmoid(tau * (ratio - 1.0)) * 4.0 / tau


def top_fraction(values: jax.Array, mask: jax.Array, *, fraction: float) -> jax.Array:
    """Booleans [B, T]: the share `fraction` of counted entries with the largest values, at least 1.

    Ties at the threshold are all in. For kl-cov, and for losses on high-entropy tokens only.

    Args:
      values: [B, T] float.
      mask: [B, T], 1 where counted.
      fraction: in (0, 1].

    Raises:
      ValueError: shapes differ, fraction outside (0, 1], mask not 0/1.
    """
    shapes.check_number("fraction", fraction, above=0, maximum=1)
    keep, values = inputs.masked("B T", mask, values=values)
    return _largest(values, keep, fraction * inputs.count(keep, (0, 1)))


def above_quantile(values: jax.Array, mask: jax.Array, *, quantile: float) -> jax.Array:
    """Booleans [B, T]: counted entries at or above the `quantile`-quantile of all counted ones.

    Between two entries the quantile is interpolated linearly. `top_fraction(fraction=1 - quantile)`
    differs by at most one entry, and by ties.

    Args:
      values: [B, T] float.
      mask: [B, T], 1 where counted.
      quantile: in [0, 1].

    Raises:
      ValueError: shapes differ, quantile outside [0, 1], mask not 0/1.

    Reference: Wang et al. (2025), "Beyond the 80/20 rule", arXiv 2506.01939 (on entropies).
    """
    shapes.check_number("quantile", quantile, minimum=0, maximum=1)
    keep, values = inputs.masked("B T", mask, values=values)
    order = jnp.sort(inputs.gathered(jnp.where(keep, values, jnp.inf)).reshape(-1))
    last = inputs.count(keep, (0, 1)) - 1.0
    place = quantile * last
    below = jnp.floor(place)
    low, high = (
        jax.lax.dynamic_index_in_dim(order, p.astype(jnp.int32), keepdims=False)
        for p in (below, jnp.minimum(below + 1.0, last))
    )
    return keep & (values >= low + (place - below) * (high - low))


def _largest(values: jax.Array, keep: jax.Array, number: jax.Array) -> jax.Array:
    """The `number` (rounded, at least 1) largest kept entries of [B, T] as booleans."""
    order = inputs.gathered(jnp.where(keep, values, -jnp.inf)).reshape(-1)
    order = jnp.sort(order, descending=True)
    place = jnp.maximum(jnp.round(number).astype(jnp.int32) - 1, 0)
    return keep & (values >= jax.lax.dynamic_index_in_dim(order, place, keepdims=False))


def covariance(
    logprobs: jax.Array, advantages: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """(log pi - its mean) (A - its mean) per token, [B, T], means over the batch's counted tokens.

    Its mean is what drives the entropy of the policy down. No gradient.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Cui et al. (2025), "The entropy mechanism of RL for reasoning language models".
    """
    keep, advantages, new = policy.aligned(mask, advantages, logprobs=logprobs)
    number = inputs.count(keep, (0, 1))
    product = (new - jnp.sum(new) / number) * (advantages - jnp.sum(advantages) / number)
    return jax.lax.stop_gradient(jnp.where(keep, product, 0.0))


def clip_cov(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None,
    key: jax.Array,
    *,
    fraction: float = 2e-4,
    minimum: float = 1.0,
    maximum: float = 5.0,
    clip_low: float = 1.0,
    clip_high: float = 1.0,
) -> jax.Array:
    """Clip-cov, [B, T]: `ppo_clip` without gradient on a few tokens of high covariance.

    Of the tokens with covariance in [minimum, maximum], fraction * all counted tokens (at least
    one) are sampled at random and detached; their loss keeps its value.

    Args:
      logprobs, old_logprobs, advantages, mask: as `cispo`.
      key: a jax random key.
      fraction: in (0, 1], of counted tokens. minimum, maximum: bounds of the covariance.
      clip_low, clip_high: of `ppo_clip`.

    Raises:
      ValueError: shapes differ, a number out of range, mask not 0/1.

    Reference: Cui et al. (2025), arXiv 2505.22617 (clip-cov).
    """
    shapes.check_number("fraction", fraction, above=0, maximum=1)
    shapes.check_number("maximum", maximum, above=shapes.check_number("minimum", minimum))
    losses = policy.ppo_clip(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
    cov = covariance(logprobs, advantages, mask)
    keep = inputs.mask_of(mask, cov, "B T")
    inside = keep & (cov >= minimum) & (cov <= maximum)
    draws = jax.random.uniform(key, cov.shape)
    detached = _largest(draws, inside, fraction * inputs.count(keep, (0, 1)))
    return jnp.where(detached, jax.lax.stop_gradient(losses), losses)


def kl_cov(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    fraction: float = 2e-4,
    penalty: float = 1.0,
) -> jax.Array:
    """KL-cov, [B, T]: -rho A, plus penalty * |log rho| on the tokens of highest covariance.

    A |log rho| within rounding, 1e-5 nats, is 0: in the first update of a batch the ratio is 1 but
    for rounding, whose sign would be a gradient of the penalty's whole size.

    Args:
      logprobs, old_logprobs, advantages, mask: as `cispo`.
      fraction: in (0, 1], of counted tokens. penalty: >= 0.

    Raises:
      ValueError: shapes differ, a number out of range, mask not 0/1.

    Reference: Cui et al. (2025), arXiv 2505.22617 (|log rho| is the authors' estimate of KL).
    """
    shapes.check_number("penalty", penalty, minimum=0)
    cov = covariance(logprobs, advantages, mask)
    keep, advantages, new, old = policy.aligned(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    log_ratio = inputs.safe_log_ratio(new, jax.lax.stop_gradient(old))
    chosen = top_fraction(cov, keep, fraction=fraction) & (jnp.abs(log_ratio) > ROUNDING)
    extra = jnp.where(chosen, penalty * jnp.abs(log_ratio), 0.0)
    return extra - jnp.exp(log_ratio) * advantages


def entropy_bonus(entropy: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """-entropy per token, [B, T], 0 where masked: add a small coefficient times its token mean.

    Args:
      entropy: [B, T] float, nats, of the policy at the token.
      mask: [B, T], 1 on the response's tokens; None counts all.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Schulman et al. (2017), equation 9.
    """
    _, entropy = inputs.masked("B T", mask, entropy=entropy)
    return -entropy


def sampler_weight(
    logprobs: jax.Array,
    sampler_logprobs: jax.Array,
    mask: jax.Array | None = None,
    *,
    level: str = "sequence",
    beyond: str = "drop",
    maximum: float | None = 3.0,
    minimum: float | None = None,
) -> jax.Array:
    """Weight that corrects for a sampler whose log-probabilities differ from the trainer's, [B, T].

    w = exp(log p_trainer - log p_sampler) of the token, of the whole response, or of the response
    to the power 1 / |y| (the geometric mean of its tokens'). Outside of [minimum, maximum] it is
    cut there ("truncate") or set to 0 ("drop"). A missing sampler log-probability is NaN and counts
    as ratio 1. Multiply token losses by it. No gradient.

    Args:
      logprobs: [B, T] float, nats, by the trainer's forward pass of the policy that sampled.
      sampler_logprobs: [B, T] float, nats, as the sampler reported them; NaN where it did not.
      mask: [B, T], 1 on the response's tokens; None counts all.
      level: "token", "sequence" or "geometric".
      beyond: "truncate" or "drop".
      maximum: >= 1; None: no bound. minimum: in [0, 1]; None: no bound.

    Returns:
      [B, T] fp32 weights, 0 where masked.

    Raises:
      ValueError: shapes differ, an unknown name, a bound out of range, mask not 0/1.

    Reference: Yao et al. (2025), "Your efficient RL framework secretly brings you off-policy RL
    training" (truncated importance sampling).
    """
    shapes.check_choice("level", level, ("token", "sequence", "geometric"))
    shapes.check_choice("beyond", beyond, ("truncate", "drop"))
    high = jnp.inf if maximum is None else shapes.check_number("maximum", maximum, minimum=1)
    low = 0.0 if minimum is None else shapes.check_number("minimum", minimum, minimum=0, maximum=1)
    keep, new, sampler = inputs.masked(
        "B T", mask, logprobs=logprobs, sampler_logprobs=sampler_logprobs
    )
    log_ratio = jnp.where(jnp.isnan(sampler), 0.0, new - sampler)
    if level != "token":
        log_ratio = jnp.sum(log_ratio, axis=-1, keepdims=True)
    if level == "geometric":
        log_ratio = log_ratio / inputs.count(keep, keepdims=True)
    ratio = jnp.exp(inputs.safe_log_ratio(log_ratio, jnp.zeros_like(log_ratio)))
    if beyond == "drop":
        weight = jnp.where((ratio < low) | (ratio > high), 0.0, ratio)
    else:
        weight = jnp.clip(ratio, low, high)
    return jax.lax.stop_gradient(jnp.where(keep, weight, 0.0))


def off_policy_keep(
    logprobs: jax.Array,
    sampler_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    threshold: float,
) -> jax.Array:
    """1 for rows to learn from, [B]: A >= 0, or mean over tokens of log p_sampler - log pi small.

    A bad response that the policy has already moved away from teaches nothing more. A missing
    sampler log-probability (NaN) counts as no difference. No gradient.

    Args:
      logprobs, sampler_logprobs: [B, T] float, nats.
      advantages: [B] float.
      mask: [B, T], 1 on the response's tokens; None counts all.
      threshold: >= 0, nats per token; the mean may be as large.

    Raises:
      ValueError: shapes differ, threshold < 0, mask not 0/1.

    Reference: DeepSeek-AI (2025, V3.2), section 3.1 (off-policy sequence masking).
    """
    shapes.check_number("threshold", threshold, minimum=0)
    keep, new, sampler = inputs.masked(
        "B T", mask, logprobs=logprobs, sampler_logprobs=sampler_logprobs
    )
    shapes.check("advantages", advantages, "B", {"B": new.shape[0]})
    gap = jnp.where(jnp.isnan(sampler), 0.0, sampler - new)
    near = jnp.sum(gap, axis=-1) / inputs.count(keep) <= threshold
    some = jnp.any(keep, axis=-1)
    return jax.lax.stop_gradient(((jnp.asarray(advantages) >= 0) | near) & some).astype(new.dtype)
