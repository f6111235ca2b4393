"""GRPO and its relatives by name: PPO's clip with the reduction within each row that names them.

Arguments as in policy.py; advantages [B] from `group_relative` (reshaped to rows) or the like.

    grpo     [B]    token mean of each row, optional k3 penalty; average over rows
    dr_grpo  [B]    token sum over a constant length; average over rows; advantages not scaled
    dapo     [B, T] clip-higher; `token_mean` over the batch, or `group_mean` per prompt
    bnpo     [B, T] as dapo with a symmetric clip; `token_mean` over the micro-batch
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import kl, policy, scores


def grpo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    reference_logprobs: jax.Array | None = None,
    kl_weight: float = 0.0,
) -> jax.Array:
    """Group relative policy optimisation, [B]: mean over tokens of clip loss + kl_weight * k3.

    Args:
      logprobs, old_logprobs: [B, T] float, nats.
      advantages: [B] (or [B, T]) float.
      mask: [B, T], 1 on the response's tokens; None counts all.
      clip_low: in (0, 1]. clip_high: > 0.
      reference_logprobs: [B, T] float, nats; needed if kl_weight > 0.
      kl_weight: beta >= 0.

    Returns:
      [B] fp32 losses, 0 for a row without a counted token.

    Raises:
      ValueError: shapes differ, a number out of range, reference_logprobs missing or without use.

    Reference: Shao et al. (2024), equations 3 and 4.
    """
    shapes.check_number("kl_weight", kl_weight, minimum=0)
    losses = policy.ppo_clip(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
    used = isinstance(kl_weight, jax.core.Tracer) or kl_weight > 0
    if used != (reference_logprobs is not None):
        raise ValueError(
            "reference_logprobs must be given if and only if kl_weight > 0; got "
            f"kl_weight = {kl_weight} {'without' if used else 'with'} reference_logprobs."
        )
    if reference_logprobs is not None:
        losses = losses + kl_weight * kl.kl_loss(logprobs, reference_logprobs, mask)
    return scores.score_mean(losses, mask)


def dr_grpo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    length: float,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> jax.Array:
    """GRPO done right, [B]: sum over tokens of the clip loss, divided by a constant `length`.

    Use advantages from `group_relative(scale=False)`. No bias towards long wrong answers.

    Args:
      as `grpo`; length: > 0, tokens, e.g. the longest response allowed.

    Raises:
      ValueError: shapes differ, a number out of range, mask not 0/1.

    Reference: Liu et al. (2025, Dr. GRPO), section 3.2.
    """
    shapes.check_number("length", length, above=0)
    losses = policy.ppo_clip(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
    return jnp.sum(losses, axis=-1) / length


def dapo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> jax.Array:
    """Decoupled-clip policy optimisation, [B, T]: `ppo_clip` with a higher upper bound.

    The equation averages over the tokens of one prompt's samples (`group_mean`); implementations
    average over all tokens of the batch (`token_mean`).

    Args, Returns, Raises: as `ppo_clip`. Reference: Yu et al. (2025, DAPO), equation 8.
    """
    return policy.ppo_clip(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )


def bnpo(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> jax.Array:
    """Token losses of TRL's "bnpo", [B, T]: `ppo_clip`, for a `token_mean` over each micro-batch.

    Args, Returns, Raises: as `ppo_clip`.
    """
    return policy.ppo_clip(
        logprobs, old_logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
