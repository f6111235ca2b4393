"""Group baselines that weigh samples: by length, by gradient energy, by success. No gradients.

Rewards are [B, N], N samples of each of B prompts; mask is 0 for samples without a valid score.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import advantages, inputs


def opo(rewards: jax.Array, lengths: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Reward minus the length-weighted mean of its group, [B, N]: r - sum |y| r / sum |y|.

    The baseline of least variance where a response's gradient grows as its number of tokens does.

    Args:
      rewards: [B, N] float. lengths: [B, N], tokens of each response. mask: [B, N].

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Hao et al. (2025, OPO), arXiv 2505.23585, equation 6.
    """
    keep, rewards, lengths = inputs.masked("B N", mask, rewards=rewards, lengths=lengths)
    rewards = jax.lax.stop_gradient(rewards)
    total = jnp.sum(lengths, axis=-1, keepdims=True)
    baseline = jnp.sum(lengths * rewards, axis=-1, keepdims=True) / jnp.maximum(total, 1e-8)
    return jnp.where(keep, rewards - baseline, 0.0)


def max_rl(rewards: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Reward over its group's mean, minus 1, [B, N]: (r - mean) / mean, 0 where the mean is <= 0.

    For rewards of 0 and 1 that is the policy gradient of the log-probability of success, truncated
    at order N - 1: its weight of a prompt solved at rate p is (1 - p) (1 - (1 - p)^(N - 1)).

    Args:
      rewards: [B, N] float, >= 0. mask: [B, N].

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: MaxRL (2026), arXiv 2602.02710.
    """
    keep, rewards = inputs.masked("B N", mask, rewards=rewards)
    rewards = jax.lax.stop_gradient(rewards)
    number = inputs.count(keep, keepdims=True)
    mean = jnp.sum(rewards, axis=-1, keepdims=True) / number
    some = keep & (mean > 0)
    return jnp.where(some, (rewards - mean) / jnp.where(mean > 0, mean, 1.0), 0.0)


def pass_at_k(rewards: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The best sample's lead over the second best, 0 for all others, [B, N].

    Of several best samples each leads by 0. The gradient of the group's largest reward.

    Args:
      rewards: [B, N] float. mask: [B, N]; a group with one valid sample gets 0.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Tang et al. (2025), arXiv 2503.19595.
    """
    keep, rewards = inputs.masked("B N", mask, rewards=rewards)
    rewards = jnp.where(keep, jax.lax.stop_gradient(rewards), -jnp.inf)
    best = jnp.max(rewards, axis=-1, keepdims=True)
    first = jnp.arange(rewards.shape[-1])[None] == jnp.argmax(rewards, axis=-1)[:, None]
    second = jnp.max(jnp.where(first, -jnp.inf, rewards), axis=-1, keepdims=True)
    lead = jnp.where(jnp.isfinite(best) & jnp.isfinite(second), best - second, 0.0)
    return jnp.where(first & keep, lead, 0.0)


def otb(
    rewards: jax.Array, logprobs: jax.Array, sum_p2: jax.Array, token_mask: jax.Array
) -> jax.Array:
    """Return to go minus the optimal token baseline of its group, [B, N, T].

    b_t = sum_n G_nt W_nt / sum_n W_nt over the samples that are still going at t, where G is the
    sum of rewards from t on and W_nt = sum over j <= t of (1 - 2 pi_j + sum_v pi_v^2), the energy
    of the gradient of the tokens so far: |one-hot - pi|^2.

    Args:
      rewards: [B, N, T] float, at the token that earns them.
      logprobs: [B, N, T] float, nats, of the sampled tokens.
      sum_p2: [B, N, T], sum over the vocabulary of squared probabilities (`token_stats`).
      token_mask: [B, N, T], 1 on the response's tokens; all 0 for a sample without a score.

    Raises:
      ValueError: shapes differ, or token_mask is not 0/1.

    Reference: verl 0.9, adv_estimator "optimal_token_baseline".
    """
    arrays = {"rewards": rewards, "logprobs": logprobs, "sum_p2": sum_p2}
    keep, rewards, logprobs, sum_p2 = inputs.masked("B N T", token_mask, **arrays)
    rewards, logprobs, sum_p2 = jax.lax.stop_gradient((rewards, logprobs, sum_p2))
    wide = shapes.check("rewards", rewards, "B N T")
    flat = (wide["B"] * wide["N"], wide["T"])
    returns = advantages.discounted_returns(rewards.reshape(flat), keep.reshape(flat), discount=1.0)
    returns = returns.reshape(rewards.shape)
    energy = jnp.where(keep, 1.0 - 2.0 * jnp.exp(logprobs) + sum_p2, 0.0)
    weight = jnp.where(keep, jnp.cumsum(energy, axis=-1), 0.0)
    total = jnp.sum(weight, axis=1, keepdims=True)
    baseline = jnp.sum(weight * returns, axis=1, keepdims=True) / jnp.maximum(total, 1e-8)
    return jnp.where(keep, returns - baseline, 0.0)
