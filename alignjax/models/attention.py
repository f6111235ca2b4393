"""Grouped-query attention over segments and positions, with or without a key-value cache."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.parallel import axes


@struct.pytree
class Attention:
    """Weights: query [D, K, G, H], key and value [D, K, H], out [K, G, H, D].

    Heads are stored as (kv head, group), so grouped queries need no reshape of a sharded axis.
    """

    query: Any
    key: Any
    value: Any
    out: Any


def visible(
    query_positions: jax.Array,
    query_segments: jax.Array,
    key_positions: jax.Array,
    key_segments: jax.Array,
) -> jax.Array:
    """[B, T, S]: whether a query may see a key: same non-zero segment and not later.

    Positions and segments decide, never slots: packed rows, padding on either side and a cache
    with gaps are all the same case.
    """
    same = query_segments[:, :, None] == key_segments[:, None, :]
    causal = query_positions[:, :, None] >= key_positions[:, None, :]
    return same & causal & (query_segments[:, :, None] > 0)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k / sqrt(H)) v, with fp32 scores.

    Args:
      query: [B, T, K, G, H]. key, value: [B, S, K, H]. mask: [B, T, S], true where visible.

    Returns:
      [B, T, K, G, H]. A query that sees nothing (padding) gets a finite value without meaning.

    Reference: Vaswani et al. 2017, equation 1; Ainslie et al. 2023 (grouped queries).
    """
    scale = query.shape[-1] ** -0.5
    scores = axes.einsum(
        "btkgh,bskh->bkgts", query, key, out="batch kv group time slot", dtype=jnp.float32
    )
    scores = jnp.where(mask[:, None, None], scores * scale, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return axes.einsum("bkgts,bskh->btkgh", weights, value, out="batch time kv group head")


def project(weights: Attention, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(query, key, value) of `x` [B, T, D]."""
    query = axes.shard(weights.query, "embed kv group head")
    key = axes.shard(weights.key, "embed kv head")
    value = axes.shard(weights.value, "embed kv head")
    return (
        axes.einsum("btd,dkgh->btkgh", x, query, out="batch time kv group head"),
        axes.einsum("btd,dkh->btkh", x, key, out="batch time kv head"),
        axes.einsum("btd,dkh->btkh", x, value, out="batch time kv head"),
    )


def merge(weights: Attention, mixed: jax.Array) -> jax.Array:
    """[B, T, K, G, H] back to the residual stream [B, T, D]."""
    out = axes.shard(weights.out, "kv group head embed")
    return axes.einsum("btkgh,kghd->btd", mixed, out, out="batch time embed")
