"""Experts beside a dense MLP, each behind norms of its own (Gemma 4)."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import attention, layers, moe, params
from alignjax.models.config import TransformerConfig


@struct.pytree
class Beside:
    """Weights: the experts; of norms [D]: before them, behind them, behind the dense MLP;
    router_norm [D], a factor of what the router reads."""

    experts: moe.Moe
    experts_norm: jax.Array
    experts_post_norm: jax.Array
    dense_post_norm: jax.Array
    router_norm: jax.Array


def declare(config: TransformerConfig, count: int) -> Beside:
    """`count` layers' parameters."""
    norm = attention.norm_info(config, (count, config.width))
    factor: Any = params.ParamInfo((count, config.width), "layers embed", -1)
    return Beside(
        experts=moe.declare(config, count),
        experts_norm=norm,
        experts_post_norm=norm,
        dense_post_norm=norm,
        router_norm=factor,
    )


def cast(weights: Beside, dtype: Any) -> Beside:
    """The weights in the compute dtype; the router's keep their own."""
    used = layers.cast(weights, dtype)
    experts = moe.cast(weights.experts, dtype)
    return struct.replace(used, experts=experts, router_norm=weights.router_norm)


def join(
    config: TransformerConfig, weights: Beside, dense: jax.Array, x: jax.Array
) -> tuple[jax.Array, moe.Routing]:
    """(norm(dense) + norm(experts(norm(x))), the router's choices), of the stream x [B, T, D].

    The router reads x / sqrt(mean(x^2) + eps) router_norm D^-1/2. dense: [B, T, D], what the dense
    MLP makes of x.

    Reference: Google 2026 (Gemma 4, its mixtures).
    """
    eps = config.norm_eps

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        return layers.rms_norm(x, scale, eps, plus_one=config.norm_plus_one)

    wide = layers.rms_norm(x.astype(jnp.float32), weights.router_norm, eps)
    heard = wide * config.width**-0.5
    read = norm(x, weights.experts_norm)
    routed, routing = moe.mixture(config, weights.experts, read, heard=heard)
    routed = norm(routed, weights.experts_post_norm)
    return norm(dense, weights.dense_post_norm) + routed, routing
