"""Policy-gradient losses that mask tokens by how far the policy's distribution has moved."""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import policy


def dppo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    threshold: float = 0.2,
    measure: str = "tv",
    maximum_ratio: float = 20.0,
) -> jax.Array:
    """Divergence proximal policy optimisation, [B, T]: -sg(m min(rho, maximum_ratio)) A log pi.

    m is 0 on tokens that have moved by more than the threshold in the direction of A (up for A > 0,
    down for A < 0), else 1. A ratio says little about rare tokens; a divergence does: of the two
    outcomes "this token" and "another", |pi - old| ("tv") or KL(old || pi) ("kl").

    Args:
      logprobs, old_logprobs: [B, T] float, nats, at most 0.
      advantages: [B, T] or [B] float.
      mask: [B, T], 1 on the response's tokens; None counts all.
      threshold: > 0; of probability for "tv", nats for "kl".
      measure: of a token's move, "tv" or "kl".
      maximum_ratio: >= 1, bound of the weight.

    Raises:
      ValueError: shapes differ, a number out of range, unknown measure, mask not 0/1.

    Reference: DPPO (2026), arXiv 2602.04879.
    """
    shapes.check_number("threshold", threshold, above=0)
    shapes.check_number("maximum_ratio", maximum_ratio, minimum=1)
    shapes.check_choice("measure", measure, ("tv", "kl"))
    keep, advantages, new, old = policy.aligned(
        mask, advantages, logprobs=logprobs, old_logprobs=old_logprobs
    )
    now, before = (jnp.exp(jax.lax.stop_gradient(x)) for x in (new, old))
    if measure == "tv":
        moved = jnp.abs(now - before)
    else:
        moved = _binary_kl(before, now)
    onward = jnp.where(advantages > 0, now > before, now < before)
    ratio = jnp.minimum(policy.importance_ratio(new, old), maximum_ratio)
    weight = jnp.where(onward & (moved > threshold), 0.0, ratio)
    return -jax.lax.stop_gradient(jnp.where(keep, weight, 0.0)) * advantages * new


def _binary_kl(p: jax.Array, q: jax.Array) -> jax.Array:
    """KL of Bernoulli(p) to Bernoulli(q), nats; both within 1e-8 of 0 and 1."""
    p, q = (jnp.clip(x, 1e-8, 1.0 - 1e-7) for x in (p, q))
    return p * jnp.log(p / q) + (1.0 - p) * (jnp.log1p(-p) - jnp.log1p(-q))
