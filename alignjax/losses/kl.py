"""KL divergence to a reference from samples, as a reward penalty or as a loss, and its control.

With r = log pi(token) - log ref(token) on tokens sampled from pi, k1 = r, k2 = r^2 / 2 and
k3 = exp(-r) - 1 + r all estimate KL(pi; ref); k1 and k3 without bias, k3 never negative. Their
gradients as losses differ: E grad k1 = 0, E grad k2 = grad KL(pi; ref), E grad k3 =
grad KL(ref; pi).
"""

import math

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs, policy, sequence_policy


def _log_ratio(
    logprobs: jax.Array, reference_logprobs: jax.Array, mask: jax.Array | None
) -> jax.Array:
    _, logprobs, reference = inputs.masked(
        "B T", mask, logprobs=logprobs, reference_logprobs=reference_logprobs
    )
    return logprobs - jax.lax.stop_gradient(reference)


def k1(
    logprobs: jax.Array, reference_logprobs: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """log pi - log ref per token, [B, T], nats: unbiased for KL(pi; ref), may be negative.

    For rewards and reports. As a loss its expected gradient is zero: see `kl_loss`.

    Args:
      logprobs: [B, T] float, nats, of the tokens under pi, which sampled them.
      reference_logprobs: [B, T] float, nats; no gradient flows into it.
      mask: [B, T], 1 where counted; None counts all.

    Returns:
      [B, T] fp32, 0 where masked.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Schulman (2020), "Approximating KL divergence".
    """
    return _log_ratio(logprobs, reference_logprobs, mask)


def k2(
    logprobs: jax.Array, reference_logprobs: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """(log pi - log ref)^2 / 2 per token, [B, T], nats: biased, never negative.

    On samples of pi its expected gradient is that of KL(pi; ref). Args, Raises, Reference: as `k1`.
    """
    return 0.5 * jnp.square(_log_ratio(logprobs, reference_logprobs, mask))


def k3(
    logprobs: jax.Array, reference_logprobs: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """ref / pi - 1 + log(pi / ref) per token, [B, T], nats: unbiased for KL(pi; ref), never < 0.

    As a loss on samples of pi its expected gradient is that of KL(ref; pi), the forward KL. The
    log-ratio is limited to +-20 nats. Args, Raises, Reference: as `k1`.
    """
    log_ratio = _log_ratio(logprobs, reference_logprobs, mask)
    log_ratio = inputs.safe_log_ratio(log_ratio, jnp.zeros_like(log_ratio))
    return jnp.expm1(-log_ratio) + log_ratio


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


def kl_penalty(
    logprobs: jax.Array,
    reference_logprobs: jax.Array,
    mask: jax.Array | None = None,
    *,
    estimator: str = "k1",
) -> jax.Array:
    """KL per token without gradient, [B, T], nats: subtract coefficient * this from the rewards.

    Args:
      logprobs, reference_logprobs, mask: as `k1`.
      estimator: "k1", "k2" or "k3"; only k1 makes the reward that of the KL-regularised objective.

    Raises:
      ValueError: shapes differ, mask not 0/1, unknown estimator.

    Reference: Ziegler et al. (2019), equation 2; Ouyang et al. (2022), equation 2.
    """
    shapes.check_choice("estimator", estimator, ESTIMATORS)
    return jax.lax.stop_gradient(ESTIMATORS[estimator](logprobs, reference_logprobs, mask))


def kl_loss(
    logprobs: jax.Array,
    reference_logprobs: jax.Array,
    mask: jax.Array | None = None,
    *,
    estimator: str = "k3",
) -> jax.Array:
    """KL per token with gradient, [B, T], nats: add coefficient * this to the token losses.

    Args:
      logprobs, reference_logprobs, mask: as `k1`.
      estimator: "k3" (GRPO; gradient of KL(ref; pi)) or "k2" (gradient of KL(pi; ref)).

    Raises:
      ValueError: estimator is "k1" or unknown, shapes differ, mask not 0/1.

    Reference: Shao et al. (2024), equation 4 (k3).
    """
    if estimator == "k1":
        raise ValueError(
            "estimator must be k2 or k3 in a loss; got 'k1'. The expected gradient of k1 on "
            "samples of the policy is zero, so it penalises nothing: use kl_penalty in the "
            "reward, or k2, whose gradient is that of KL(pi; ref)."
        )
    shapes.check_choice("estimator", estimator, ("k2", "k3"))
    return ESTIMATORS[estimator](logprobs, reference_logprobs, mask)


def adaptive_kl(
    coefficient: jax.Array | float,
    observed: jax.Array | float,
    samples: jax.Array | float,
    *,
    target: float,
    horizon: float,
    clip: float = 0.2,
) -> jax.Array:
    """The next KL coefficient, a scalar: coefficient * (1 + e * samples / horizon).

    e = clip(observed / target - 1, -clip, clip): a proportional controller in log space.

    Args:
      coefficient: the present one, reward units per nat.
      observed: mean KL per sequence of the last batch, nats.
      samples: sequences in that batch.
      target: > 0, nats per sequence.
      horizon: > 0, sequences over which the coefficient may change by about `clip`.
      clip: > 0.

    Raises:
      ValueError: target, horizon or clip <= 0 or not finite; an argument is not a scalar.

    Reference: Ziegler et al. (2019), section 2.2.
    """
    for name, x in {"coefficient": coefficient, "observed": observed, "samples": samples}.items():
        shapes.check(name, x, "")
    shapes.check_number("target", target, above=0)
    shapes.check_number("horizon", horizon, above=0)
    shapes.check_number("clip", clip, above=0)
    error = jnp.clip(inputs.as_float(observed) / target - 1.0, -clip, clip)
    factor = 1.0 + error * inputs.as_float(samples) / horizon
    return jax.lax.stop_gradient(inputs.as_float(coefficient) * factor)


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n, nats: KL(best of n; reference) without ties, an upper bound with ties.

    Args:
      n: >= 1, samples per prompt.

    Raises:
      ValueError: n < 1.

    Reference: Stiennon et al. (2020), appendix G.3; the bound: Beirami et al. (2024).
    """
    shapes.check_number("n", n, minimum=1)
    return math.log(n) - (n - 1) / n


def kl_loss_weighted(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    reference_logprobs: jax.Array,
    mask: jax.Array | None = None,
    *,
    estimator: str = "k3",
    level: str = "token",
) -> jax.Array:
    """rho * k per token, [B, T], nats: unbiased in value and gradient for KL(pi; ref).

    rho = pi / old. The ratio carries the score-function part of the gradient, so that k1 and k3
    both are unbiased, on and off policy.

    Args:
      logprobs: [B, T] float, nats, of tokens that old sampled. old_logprobs: [B, T] float, nats.
      reference_logprobs, mask: as `k1`.
      estimator: "k1" or "k3" (smaller variance).
      level: of rho: "token", or "sequence" (`sequence_ratio`; no longer unbiased).

    Raises:
      ValueError: shapes differ, mask not 0/1, another estimator or level.

    Reference: DeepSeek-AI (2025, V3.2), section 3.1 (unbiased KL estimate).
    """
    shapes.check_choice("estimator", estimator, ("k1", "k3"))
    shapes.check_choice("level", level, ("token", "sequence"))
    if level == "sequence":
        ratio = sequence_policy.sequence_ratio(logprobs, old_logprobs, mask)[:, None]
    else:
        ratio = policy.importance_ratio(logprobs, old_logprobs, mask)
    return ratio * ESTIMATORS[estimator](logprobs, reference_logprobs, mask)
