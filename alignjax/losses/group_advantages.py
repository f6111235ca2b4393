"""Baselines and normalisations of rewards beyond GAE and the plain group mean. No gradients."""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import advantages, inputs


def remax(rewards: jax.Array, greedy_rewards: jax.Array) -> jax.Array:
    """Reward of the sample minus that of the greedy answer to the same prompt, [B].

    Raises:
      ValueError: the arguments are not both [B].

    Reference: Li et al. (2024, ReMax), arXiv 2310.10505.
    """
    sampled, greedy = inputs.arrays("B", rewards=rewards, greedy_rewards=greedy_rewards)
    return jax.lax.stop_gradient(sampled - greedy)


def reinforce_plus_plus(
    rewards: jax.Array, mask: jax.Array, *, discount: float = 1.0, eps: float = 1e-8
) -> jax.Array:
    """Returns to go, whitened over the batch's counted tokens, [B, T]: REINFORCE++ without critic.

    Args:
      rewards: [B, T] float: per token -beta k1, plus the score at the last token.
      mask: [B, T], 1 on the response's tokens.
      discount: in [0, 1]. eps: > 0, of `whiten`.

    Raises:
      ValueError: shapes differ, a number out of range, mask not 0/1.

    Reference: Hu (2025, REINFORCE++), arXiv 2501.03262.
    """
    returns = advantages.discounted_returns(rewards, mask, discount=discount)
    return advantages.whiten(returns, mask, eps=eps)


def reinforce_plus_plus_baseline(
    rewards: jax.Array, mask: jax.Array | None = None, *, eps: float = 1e-8
) -> jax.Array:
    """Reward minus the group's mean, whitened over the batch, [B, N]: one scale for all prompts.

    Args:
      rewards: [B, N] float. mask: [B, N], 0 for samples without a valid score. eps: > 0.

    Raises:
      ValueError: shapes differ, eps <= 0, mask not 0/1.

    Reference: Hu (2025, REINFORCE++ baseline), arXiv 2501.03262.
    """
    centred = advantages.group_relative(rewards, mask, scale=False)
    return advantages.whiten(centred, mask, eps=eps)


def gpg(rewards: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Group-policy-gradient advantages, [B, N]: (r - mean) * groups / groups with any signal.

    Groups of equal rewards give no gradient; the factor keeps the step from shrinking with their
    number. Use with `reinforce`.

    Args:
      rewards: [B, N] float. mask: [B, N], 0 for samples without a valid score.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Chu et al. (2025, GPG), arXiv 2504.02546.
    """
    centred = advantages.group_relative(rewards, mask, scale=False)
    live = jnp.sum(is_informative(rewards, mask).astype(centred.dtype))
    return centred * (centred.shape[0] / jnp.maximum(live, 1.0))


def is_informative(rewards: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Booleans [B]: groups whose valid rewards differ; the others teach a group baseline nothing.

    Args:
      rewards: [B, N] float. mask: [B, N], 0 for samples without a valid score.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Yu et al. (2025, DAPO), section 3.2 (dynamic sampling).
    """
    keep, rewards = inputs.masked("B N", mask, rewards=rewards)
    high = jnp.max(jnp.where(keep, rewards, -jnp.inf), axis=-1)
    low = jnp.min(jnp.where(keep, rewards, jnp.inf), axis=-1)
    return high > low


def gdpo(
    rewards: jax.Array,
    weights: jax.Array,
    mask: jax.Array | None = None,
    *,
    eps: float = 1e-4,
) -> jax.Array:
    """Advantages from several rewards, [B, N]: each normalised in its group, summed, then whitened.

    Normalising before the sum keeps a reward of small spread from drowning.

    Args:
      rewards: [B, N, K] float, K rewards of each of N samples.
      weights: [K] float.
      mask: [B, N], 0 for samples without valid scores.
      eps: > 0, of the group's standard deviation.

    Raises:
      ValueError: shapes differ, eps <= 0, mask not 0/1.

    Reference: Liu et al. (2026, GDPO), arXiv 2601.05242.
    """
    sizes = shapes.check("rewards", rewards, "B N K")
    shapes.check("weights", weights, "K", {"K": sizes["K"]})
    normalised = jax.vmap(
        lambda r: advantages.group_relative(r, mask, eps=eps), in_axes=-1, out_axes=-1
    )(inputs.as_float(rewards))
    joined = jnp.einsum("bnk,k->bn", normalised, inputs.as_float(weights))
    return advantages.whiten(joined, mask)
