"""Scores: what one response is worth, [B], from the log-probabilities of its tokens.

The first part of a preference loss. Apply the same score to policy and reference and subtract, or
subtract token by token first: sums and means are linear.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs


def score_sum(token_logprobs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Log-probability of the response, [B], nats: the sum over its tokens; 0 for an empty one.

    Args:
      token_logprobs: [B, T] float, nats (or log-ratios).
      mask: [B, T], 1 on the response's tokens; None counts all.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.
    """
    _, logprobs = inputs.masked("B T", mask, token_logprobs=token_logprobs)
    return jnp.sum(logprobs, axis=-1)


def score_mean(token_logprobs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean log-probability per token of the response, [B], nats per token; 0 for an empty one.

    Length-normalised DPO (Lambert et al. 2024, Tulu 3, section 5.1), IPO in practice, SimPO, ORPO.
    Args and Raises: as `score_sum`.
    """
    keep, logprobs = inputs.masked("B T", mask, token_logprobs=token_logprobs)
    return jnp.sum(logprobs, axis=-1) / inputs.count(keep)


def score_ld(
    token_logprobs: jax.Array,
    mask: jax.Array,
    other_mask: jax.Array,
    *,
    alpha: float,
) -> jax.Array:
    """Length-desensitised score, [B], nats: tokens beyond the pair's common length count alpha.

    sum of the first min(n, m) tokens + alpha * the rest, with n, m the lengths of this response and
    of the other one of its pair. alpha = 1 is `score_sum`.

    Args:
      token_logprobs: [B, T] float, nats.
      mask: [B, T], 1 on the response's tokens.
      other_mask: [B, U], 1 on the tokens of the pair's other response.
      alpha: in [0, 1].

    Raises:
      ValueError: shapes differ, mask not 0/1, alpha outside [0, 1].

    Reference: Liu et al. (2024, LD-DPO), arXiv 2409.06411.
    """
    shapes.check_number("alpha", alpha, minimum=0, maximum=1)
    keep, logprobs = inputs.masked("B T", mask, token_logprobs=token_logprobs)
    shapes.check("other_mask", other_mask, "B U", {"B": keep.shape[0]})
    other = inputs.mask_of(other_mask, jnp.zeros(jnp.shape(other_mask)), "B U", "other_mask")
    keep, logprobs, other = (inputs.gathered(x, axis=1) for x in (keep, logprobs, other))
    place = jnp.cumsum(keep.astype(jnp.int32), axis=-1)
    common = place <= jnp.sum(other.astype(jnp.int32), axis=-1, keepdims=True)
    return jnp.sum(jnp.where(common, logprobs, alpha * logprobs), axis=-1)


def wpo_weight(
    token_logprobs: jax.Array, sum_p2: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """How on-policy a response is, [B] > 0: exp(mean over tokens of log p - log sum_v p_v^2).

    About 1 for a sample of the policy. Multiply a pair's loss by the product of its two weights
    (kept <= 1 by `jnp.minimum` in the authors' code). No gradient.

    Args:
      token_logprobs: [B, T] float, nats, under the policy.
      sum_p2: [B, T] float in (0, 1], sum over the vocabulary of squared probabilities.
      mask: [B, T], 1 on the response's tokens; None counts all.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Zhou et al. (2024, WPO), arXiv 2406.11827 (sampled alignment).
    """
    keep, logprobs, sum_p2 = inputs.masked(
        "B T", mask, token_logprobs=token_logprobs, sum_p2=sum_p2
    )
    relative = logprobs - jnp.log(jnp.where(keep, sum_p2, 1.0))
    return jax.lax.stop_gradient(jnp.exp(jnp.sum(relative, axis=-1) / inputs.count(keep)))
