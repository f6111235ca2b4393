"""Advantages and returns, the weights of policy-gradient losses. No gradient passes through."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs


def _unit(name: str, value: float) -> float:
    return shapes.check_number(name, value, minimum=0, maximum=1)


def gae(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, *, discount: float, decay: float
) -> tuple[jax.Array, jax.Array]:
    """(advantages, returns), both [B, T], by generalised advantage estimation.

    delta_t = r_t + discount V_{t+1} - V_t; A_t = delta_t + discount decay A_{t+1}; R_t = A_t + V_t,
    where t + 1 is the row's next counted token. V and A after a row's last counted token are 0: the
    episode ends there. Uncounted tokens (prompt, padding, another speaker's turn) are skipped:
    their rewards and values do not matter and they get 0. No gradient.

    Args:
      rewards: [B, T] float, reward units, at the token that earns them.
      values: [B, T] float, V of the state before the token.
      mask: [B, T], 1 on the response's tokens.
      discount: gamma in [0, 1], per token.
      decay: lambda in [0, 1]; 1 is return minus value, 0 the one-step error.

    Raises:
      ValueError: shapes differ, mask not 0/1, discount or decay outside [0, 1].

    Reference: Schulman et al. (2016), equation 16.
    """
    _unit("discount", discount)
    _unit("decay", decay)
    keep, rewards, values = inputs.masked("B T", mask, rewards=rewards, values=values)
    rewards, values = jax.lax.stop_gradient((rewards, values))

    def step(after: Any, now: Any) -> tuple[Any, Any]:
        next_advantage, next_value = after
        reward, value, kept = now
        delta = reward + discount * next_value - value
        advantage = delta + discount * decay * next_advantage
        carry = (jnp.where(kept, advantage, next_advantage), jnp.where(kept, value, next_value))
        return carry, jnp.where(kept, advantage, 0.0)

    columns = [jnp.swapaxes(inputs.gathered(x, axis=1), 0, 1) for x in (rewards, values, keep)]
    end = jnp.zeros_like(columns[0][0])  # of a traced array: it keeps the sharding of the batch
    advantages: jax.Array = jax.lax.scan(step, (end, end), columns, reverse=True)[1]
    advantages = inputs.spread_like(jnp.swapaxes(advantages, 0, 1), values)
    return advantages, advantages + values


def discounted_returns(rewards: jax.Array, mask: jax.Array, *, discount: float) -> jax.Array:
    """Sum of discounted rewards from each counted token on, [B, T], 0 where masked; no gradient.

    R_t = r_t + discount R_{t+1}, where t + 1 is the row's next counted token.

    Args:
      rewards: [B, T] float, reward units.
      mask: [B, T], 1 on the response's tokens.
      discount: in [0, 1], per token.

    Raises:
      ValueError: shapes differ, mask not 0/1, discount outside [0, 1].

    Reference: Sutton and Barto (2018), equation 3.9.
    """
    return gae(rewards, jnp.zeros_like(rewards), mask, discount=discount, decay=1.0)[0]


def whiten(
    x: jax.Array,
    mask: jax.Array | None = None,
    *,
    shift_mean: bool = True,
    eps: float = 1e-8,
    unbiased: bool = False,
) -> jax.Array:
    """`x` scaled to variance 1 over the counted entries, 0 where masked; no gradient.

    (x - mean) / sqrt(variance + eps), plus mean again if not shift_mean. Statistics are over the
    whole array that is passed, in fp32: under jit on a mesh that is the global batch.

    Args:
      x: any shape, float.
      mask: the shape of x, 1 where counted; None counts all.
      shift_mean: True to also move the mean to 0 (advantages), False to keep it (rewards).
      eps: > 0, in squared units of x.
      unbiased: divide the sum of squares by the count - 1 (at least 1), else by the count.

    Raises:
      ValueError: shapes differ, mask not 0/1, eps <= 0.

    Reference: Huang et al. (2024), "The N+ implementation details of RLHF with PPO".
    """
    shapes.check_number("eps", eps, above=0)
    x = jax.lax.stop_gradient(inputs.as_float(x))
    keep = inputs.mask_of(mask, x, " ".join(f"A{i}" for i in range(x.ndim)))
    x = jnp.where(keep, x, 0.0)
    every = tuple(range(x.ndim))
    number = inputs.count(keep, every)
    mean = jnp.sum(x, every) / number
    centred = jnp.where(keep, x - mean, 0.0)
    degrees = jnp.maximum(number - 1.0, 1.0) if unbiased else number
    scaled = centred * jax.lax.rsqrt(jnp.sum(jnp.square(centred), every) / degrees + eps)
    return scaled if shift_mean else jnp.where(keep, scaled + mean, 0.0)


def _group(rewards: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, ...]:
    keep, rewards = inputs.masked("B N", mask, rewards=rewards)
    number = inputs.count(keep, keepdims=True).astype(rewards.dtype)
    return keep, jax.lax.stop_gradient(rewards), number


def group_relative(
    rewards: jax.Array,
    mask: jax.Array | None = None,
    *,
    scale: bool = True,
    eps: float = 1e-4,
    unbiased: bool = True,
    spread: str = "group",
) -> jax.Array:
    """Reward relative to the group of answers to one prompt, [B, N]: (r - mean) / (std + eps).

    scale = False leaves out the division (Dr. GRPO): dividing by std weighs prompts by difficulty.
    A group of equal rewards gets 0. No gradient.

    Args:
      rewards: [B, N] float, N samples of each of B prompts.
      mask: [B, N], 0 for a sample without a valid score; it gets 0 and enters no statistic.
      scale: whether to divide by the group's standard deviation.
      eps: > 0, reward units.
      unbiased: divide the sum of squares by N - 1 (as implementations do), else by N.
      spread: whose standard deviation to divide by: "group", or "batch" for that of all rewards
        about their common mean, one for all prompts.

    Raises:
      ValueError: shapes differ, mask not 0/1, eps <= 0, unknown spread.

    Reference: Shao et al. (2024), section 4.1.2; Liu et al. (2025, Dr. GRPO), section 3.2.
    """
    shapes.check_number("eps", eps, above=0)
    shapes.check_choice("spread", spread, ("group", "batch"))
    keep, rewards, number = _group(rewards, mask)
    mean = jnp.sum(rewards, -1, keepdims=True) / number
    centred = jnp.where(keep, rewards - mean, 0.0)
    if not scale:
        return centred
    if spread == "batch":
        every = inputs.count(keep, (0, 1))
        apart = jnp.where(keep, rewards - jnp.sum(rewards) / every, 0.0)
        every = jnp.maximum(every - 1.0, 1.0) if unbiased else every
        return centred / (jnp.sqrt(jnp.sum(jnp.square(apart)) / every) + eps)
    degrees = jnp.maximum(number - 1.0, 1.0) if unbiased else number
    std = jnp.sqrt(jnp.sum(jnp.square(centred), -1, keepdims=True) / degrees)
    return centred / (std + eps)


def leave_one_out(rewards: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Reward minus the mean of the group's other samples, [B, N]: N / (N - 1) (r - mean).

    Unbiased for the policy gradient, as the baseline does not depend on the sample. Groups with
    fewer than two valid samples get 0: they have no baseline. No gradient.

    Args:
      rewards: [B, N] float, N >= 2 samples of each of B prompts.
      mask: [B, N], 0 for a sample without a valid score.

    Raises:
      ValueError: shapes differ, N < 2, mask not 0/1.

    Reference: Ahmadian et al. (2024), arXiv 2402.14740; Kool et al. (2019).
    """
    sizes = shapes.check("rewards", rewards, "B N")
    if sizes["N"] < 2:
        raise ValueError(f"rewards must have N >= 2 samples per prompt; got {sizes['N']}.")
    keep, rewards, number = _group(rewards, mask)
    mean = jnp.sum(rewards, -1, keepdims=True) / number
    factor = number / jnp.maximum(number - 1.0, 1.0)  # a lone sample is its own mean: 0
    return jnp.where(keep, factor * (rewards - mean), 0.0)
