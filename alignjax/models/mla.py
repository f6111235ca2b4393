"""Multi-head latent attention: keys and values are projections of one cached, narrow latent."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import attention, layers, params, rope
from alignjax.models import sight as sights
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Mla:
    """Weights. K heads, R and Q the latents' widths, H a head's part without position, P the
    rotated part, U a value's width.

    query [Q, K, H + P], or [D, K, H + P] without a latent for queries; query_down [D, Q] and
    query_norm [Q], or None; latent [D, R] and its norm [R]; rotated [D, P], one key for all heads;
    key [R, K, H] and value [R, K, U] make a head's own; out [K, U, D]. Biases or None.
    """

    query: layers.Weight
    latent: layers.Weight
    latent_norm: jax.Array
    rotated: layers.Weight
    key: layers.Weight
    value: layers.Weight
    out: layers.Weight
    query_down: layers.Weight | None = None
    query_norm: jax.Array | None = None
    query_down_bias: jax.Array | None = None
    latent_bias: jax.Array | None = None
    rotated_bias: jax.Array | None = None
    out_bias: jax.Array | None = None


def declare(config: TransformerConfig, count: int) -> Mla:
    """`count` layers' parameters. `out_bias` puts biases on the maps from and to the stream."""
    mla, n, d, k = config.mla, count, config.width, config.heads
    info: Any = params.ParamInfo
    r, q, p, u, h = mla.kv_rank, mla.query_rank, mla.rope_dim, mla.value_dim, config.head_dim
    into, back, bias = d**-0.5, (2 * config.layers * k * u) ** -0.5, config.out_bias

    def parts(rank: int) -> str:
        # Ranks are narrow: one that the data axis does not divide is kept whole.
        return "route" if rank % axes.axis_size("latent") else "latent"

    return Mla(
        query=info(
            (n, q or d, k, h + p), f"layers {parts(q) if q else 'fsdp'} kv head", (q or d) ** -0.5
        ),
        latent=info((n, d, r), "layers fsdp route", into),
        latent_norm=attention.norm_info(config, (n, r)),
        rotated=info((n, d, p), "layers fsdp head", into),
        key=info((n, r, k, h), f"layers {parts(r)} kv head", r**-0.5),
        value=info((n, r, k, u), f"layers {parts(r)} kv head", r**-0.5),
        out=info((n, k, u, d), "layers kv head fsdp", back),
        query_down=info((n, d, q), "layers fsdp route", into) if q else None,
        query_norm=attention.norm_info(config, (n, q)) if q else None,
        query_down_bias=info((n, q), "layers route", 0) if q and bias else None,
        latent_bias=info((n, r), "layers route", 0) if bias else None,
        rotated_bias=info((n, p), "layers head", 0) if bias else None,
        out_bias=info((n, d), "layers embed", 0) if bias else None,
    )


def score_scale(config: TransformerConfig) -> float:
    """Factor of the scores: (H + P)^-1/2, or `query_scale`, times YaRN's mscale squared.

    Reference: Peng et al. 2023, section 3.4, as DeepSeek-V2 applies it.
    """
    scale = config.query_scale or (config.head_dim + config.mla.rope_dim) ** -0.5
    if config.rope.kind == "yarn" and config.rope.score_mscale and config.rope.factor > 1:
        scale *= (0.1 * config.rope.score_mscale * math.log(config.rope.factor) + 1.0) ** 2
    return scale


def absorbs(config: TransformerConfig, queries: int, keys: int) -> bool:
    """Whether it is cheaper to bring queries to the latent than the latents to every head.

    Both are the same sum in another order: (q W) . c = q . (W c). Multiplications a head: bringing
    latents, S R (H + U) + T S (H + P + U); bringing queries, T R (H + U) + T S (2 R + P). Decoding
    brings queries, training and prefill bring latents. Low-rank adapters of keys and values are
    brought alike, (q up) down; other adapters, and those that drop out, bring latents.
    """
    mla, h = config.mla, config.head_dim
    both = mla.kv_rank * (h + mla.value_dim)
    latents = keys * both + queries * keys * (h + mla.rope_dim + mla.value_dim)
    return queries * both + queries * keys * (2 * mla.kv_rank + mla.rope_dim) < latents


def _norm(config: TransformerConfig, x: jax.Array, scale: Any) -> jax.Array:
    return layers.rms_norm(x, scale, config.mla.norm_eps, plus_one=config.norm_plus_one)


def _query(config: TransformerConfig, weights: Mla, x: jax.Array) -> jax.Array:
    """[B, T, K, H + P]."""
    if weights.query_down is not None:
        x = layers.linear(
            "btd,dq->btq",
            x,
            weights.query_down,
            bias=weights.query_down_bias,
            stored="embed route",
            out="batch time route",
        )
        x = _norm(config, x, weights.query_norm)
    wide = {"stored": "embed kv head", "out": "batch time kv head"}
    return layers.linear("btq,qkh->btkh", x, weights.query, **wide)


def _by_latents(
    config: TransformerConfig, weights: Mla, query: jax.Array, latent: Any, rotated: Any, view: Any
) -> jax.Array:
    """[B, T, K, U]: every head's keys and values are projected from the latents [B, S, R]."""
    wide = {"stored": "route kv head", "out": "batch kv slot head"}
    key = layers.linear("bsr,rkh->bksh", latent, weights.key, **wide)
    value = layers.linear("bsr,rku->bksu", latent, weights.value, **wide)
    shared = jnp.broadcast_to(rotated[:, None], (*key.shape[:3], rotated.shape[-1]))
    key = jnp.concatenate([key, axes.shard(shared, "batch kv slot head")], axis=-1)
    scale = score_scale(config)
    return attention.attend_by_kernel(config, view, query[:, :, :, None], key, value, scale=scale)[
        :, :, :, 0
    ]


def _by_queries(
    config: TransformerConfig, weights: Mla, query: jax.Array, latent: Any, rotated: Any, view: Any
) -> jax.Array:
    """[B, T, K, U]: queries and mixtures are [B, T, K, R], so no head has keys of its own."""
    h, fp32 = config.head_dim, {"dtype": jnp.float32}
    own = {"stored": "route kv head", "out": "batch time kv head"}
    heads = "batch kv time slot"
    near = _absorbed("btkh,rkh->btkr", query[..., :h], weights.key, **own)
    score = axes.einsum("btkr,bsr->bkts", near, latent, out=heads, **fp32)
    score = score + axes.einsum("btkp,bsp->bkts", query[..., h:], rotated, out=heads, **fp32)
    mask = sights.visible(view.sight) if view.mask is None else view.mask
    score = jnp.where(mask[:, None], score_scale(config) * score, jnp.finfo(jnp.float32).min)
    share = jax.nn.softmax(score, axis=-1).astype(latent.dtype)
    mixed = axes.einsum("bkts,bsr->btkr", share, latent, out="batch time kv head")
    return _absorbed("btkr,rku->btku", mixed, weights.value, **own)


def _absorbed(equation: str, x: jax.Array, weight: layers.Weight, **own: str) -> jax.Array:
    """`linear` with a head's map from or to the latents, a head at a time."""
    if isinstance(weight, layers.Operator):
        return weight.absorbed(equation, x, **own)
    return layers.linear(equation, x, weight, **own)


def project(
    config: TransformerConfig, weights: Mla, x: jax.Array, view: attention.View
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(query [B, T, K, H + P], latent [B, T, 1, R], rotated key [B, T, 1, P]) of x [B, T, D].

    c = norm(x W_latent), q = norm(x W_down) W_query; a head's key is (c W_key, rope(x W_rotated)),
    its query (q without position, rope(the rest of q)), its value c W_value. The latent c and the
    rotated key are all that a cache holds.

    Reference: DeepSeek-AI 2024 (V2), equations 9 to 19 and 37 to 47.
    """
    into = {"stored": "embed route", "out": "batch time route"}
    query = _query(config, weights, x)
    latent = layers.linear("btd,dr->btr", x, weights.latent, bias=weights.latent_bias, **into)
    rotated = layers.linear("btd,dp->btp", x, weights.rotated, bias=weights.rotated_bias, **into)
    rotation = {"interleaved": config.rope_interleaved}
    h = config.head_dim
    rest = rope.rotate(query[..., h:], view.cos, view.sin, **rotation)
    query = jnp.concatenate([query[..., :h], rest], axis=-1)
    if view.scale is not None:
        query = query * view.scale[:, :, None, None].astype(query.dtype)
    rotated = rope.rotate(rotated, view.cos, view.sin, **rotation)
    latent = _norm(config, latent, weights.latent_norm)
    return query, latent[:, :, None], rotated[:, :, None]


def mix(
    config: TransformerConfig,
    weights: Mla,
    view: attention.View,
    query: jax.Array,
    latent: jax.Array,
    rotated: jax.Array,
) -> jax.Array:
    """What a layer's heads add to the residual stream, [B, T, D].

    query: [B, T, K, H + P] of `project`. latent [B, 1, S, R] and rotated [B, 1, S, P]: of all slots
    that the view masks.
    """
    latent, rotated = (
        axes.shard(a[:, 0].astype(query.dtype), "batch slot route") for a in (latent, rotated)
    )
    plain = view.kernel in ("reference", "tiled")  # others are for whole rows, which absorb nothing
    both = (weights.key, weights.value)
    able = all(w.absorbs for w in both if isinstance(w, layers.Operator))
    absorbed = plain and able and absorbs(config, query.shape[1], latent.shape[1])
    heads = _by_queries if absorbed else _by_latents
    return layers.linear(
        "btku,kud->btd",
        heads(config, weights, query, latent, rotated, view),
        weights.out,
        bias=weights.out_bias,
        stored="kv head embed",
        out="batch time embed",
    )
