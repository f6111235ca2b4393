"""Normalisation, rotary positions and the gated MLP."""

import jax
import jax.numpy as jnp

from alignjax.parallel import axes


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, computed in fp32.

    Reference: Zhang and Sennrich 2019, equation 4.
    """
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (wide * inverse * scale.astype(jnp.float32)).astype(x.dtype)


def rotary_angles(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """(cos, sin) [B, T, H/2] of position * theta^(-2i/H).

    Reference: Su et al. 2021, section 3.2.
    """
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """`x` [B, T, ..., H] with its two halves rotated by the angles, as Llama's weights expect."""
    for _ in range(x.ndim - cos.ndim):
        cos, sin = cos[..., None, :], sin[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def gated_mlp(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """(silu(x gate) * (x up)) down. x [B, T, D]; gate, up [D, F]; down [F, D].

    Reference: Shazeer 2020, equation 6 (SwiGLU).
    """
    gate, up, down = (
        axes.shard(gate, "embed ff"),
        axes.shard(up, "embed ff"),
        axes.shard(down, "ff embed"),
    )
    inner = jax.nn.silu(axes.einsum("btd,df->btf", x, gate, out="batch time ff"))
    inner = inner * axes.einsum("btd,df->btf", x, up, out="batch time ff")
    return axes.einsum("btf,fd->btd", inner, down, out="batch time embed")
