"""Rotary positions: the angles of each kind of layer, and the rotation."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.models.config import RopeScaling, TransformerConfig


def frequencies(head_dim: int, theta: float, scaling: RopeScaling) -> tuple[np.ndarray, float]:
    """(angle per position [H/2] in radians, factor of cos and sin).

    theta^(-2i/H), stretched by the scaling:
      linear: all divided by the factor (Chen et al. 2023).
      llama3: those that turn less than `low_frequency` times over the original length are divided
        by the factor, those above `high_frequency` turns stay, those between are blended.
      yarn: the same idea with a linear ramp over dimensions between beta_slow and beta_fast turns,
        and cos and sin times an attention factor (Peng et al. 2023, section 3).
      proportional: all divided by the factor, and 0 but for the first `share` of them (Gemma 4).
    dynamic and longrope are stretched by the length of the row: `angles`.

    Reference: Su et al. 2021, section 3.2.
    """
    base = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling.kind == "linear":
        return base / scaling.factor, 1.0
    if scaling.kind == "llama3":
        turns = scaling.original_length * base / (2 * math.pi)
        spread = scaling.high_frequency - scaling.low_frequency
        kept = np.clip((turns - scaling.low_frequency) / spread, 0.0, 1.0)
        return base * (kept + (1.0 - kept) / scaling.factor), 1.0
    if scaling.kind == "yarn":
        kept = 1.0 - _yarn_ramp(head_dim, theta, scaling)
        factor = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0
        return base * (kept + (1.0 - kept) / scaling.factor), factor
    if scaling.kind == "proportional":
        turning = np.arange(len(base)) < int(scaling.share * head_dim // 2)
        return np.where(turning, base, 0.0) / scaling.factor, 1.0
    return base, scaling.attention_factor if scaling.kind == "longrope" else 1.0


def _stretched(size: int, scaling: RopeScaling, lengths: jax.Array) -> jax.Array:
    """[B, T, size / 2]: factors of the frequencies of tokens in rows of these lengths [B, T].

    With s the original length and n the row's, beyond s:
      dynamic: those of theta (factor n / s - factor + 1)^(size / (size - 2)) over those of theta.
      longrope: 1 / long, where shorter rows have 1 / short (Ding et al. 2024, section 3).
    """
    long = lengths[..., None] > scaling.original_length
    if scaling.kind == "longrope":
        far, near = (1.0 / np.asarray(x, np.float64) for x in (scaling.long, scaling.short))
        return jnp.where(long, far.astype(np.float32), near.astype(np.float32))
    ratio = scaling.factor * (lengths.astype(jnp.float32) / scaling.original_length - 1.0) + 1.0
    power = -2.0 * np.arange(size // 2, dtype=np.float32) / max(size - 2, 1)
    return jnp.exp(jnp.log(jnp.maximum(ratio, 1.0))[..., None] * power)


def _yarn_ramp(head_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """[H/2]: 0 in dimensions that turn fast, 1 in those that turn slowly, linear between."""

    def dimension(turns: float) -> float:
        ratio = scaling.original_length / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = max(high - low, 1e-3)
    return np.clip((np.arange(head_dim // 2) - low) / span, 0.0, 1.0)


def angles(
    config: TransformerConfig, kind: str, positions: jax.Array, size: int, lengths: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(cos, sin) [B, T, size / 2] of a kind of layer; without position for "nope".

    lengths: [B, T], of each token's own row so far.
    """
    if kind == "nope":
        still = jnp.zeros((*positions.shape, size // 2), jnp.float32) + 0.0 * positions[..., None]
        return jnp.cos(still), jnp.sin(still)
    local = kind == "sliding" and config.local_rope_theta
    theta = config.local_rope_theta if local else config.rope_theta
    scaling = RopeScaling() if local else config.rope
    step, factor = frequencies(size, theta, scaling)
    angle = positions[..., None].astype(jnp.float32) * step.astype(np.float32)
    if scaling.by_length():
        angle = angle * _stretched(size, scaling, lengths)
    return jnp.cos(angle) * factor, jnp.sin(angle) * factor


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, *, interleaved: bool) -> jax.Array:
    """`x` [B, T, ..., H] turned by the angles [B, T, R/2]: its two halves, or pairs of neighbours.

    Where R is less than H the first R dimensions turn and the others stay.
    """
    size = 2 * cos.shape[-1]
    if size < x.shape[-1]:
        turned = rotate(x[..., :size], cos, sin, interleaved=interleaved)
        return jnp.concatenate([turned, x[..., size:]], axis=-1)
    for _ in range(x.ndim - cos.ndim):
        cos, sin = cos[..., None, :], sin[..., None, :]
    wide = x.astype(jnp.float32)
    if interleaved:
        pairs = wide.reshape(*wide.shape[:-1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
    else:
        first, second = jnp.split(wide, 2, axis=-1)
    halves = (first * cos - second * sin, second * cos + first * sin)
    if interleaved:
        return jnp.stack(halves, axis=-1).reshape(x.shape).astype(x.dtype)
    return jnp.concatenate(halves, axis=-1).astype(x.dtype)
