"""Grouped-query attention over segments and positions, with or without a key-value cache."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from alignjax.core import struct
from alignjax.models import config_parts, kernels, layers, params, rope, tiled_attention
from alignjax.models import sight as sights
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Attention:
    """Weights: query [D, K, G, H], key and value [D, K, H], out [K, G, H, D]; the rest or None.

    Heads are stored as (kv head, group), so grouped queries need no reshape of a sharded axis.
    Biases have the shape of what they are added to; query_norm and key_norm are [H], or, of all
    heads at once, [K, G, H] and [K, H]. sinks: [K, G], scores of `attend`. Without a key a layer
    sees another one's keys and values; without a value its keys are the values too.
    """

    query: layers.Weight
    key: layers.Weight | None
    value: layers.Weight | None
    out: layers.Weight
    query_bias: jax.Array | None = None
    key_bias: jax.Array | None = None
    value_bias: jax.Array | None = None
    out_bias: jax.Array | None = None
    query_norm: jax.Array | None = None
    key_norm: jax.Array | None = None
    out_gate: layers.Weight | None = None  # [D, K, G, H] with its bias [K, G, H]
    out_gate_bias: jax.Array | None = None
    sinks: jax.Array | None = None
    prefix: Any = None  # learned keys and values that every query sees: adapters/prefix.py


@struct.pytree
class View:
    """What one layer's queries see: mask [B, T, S], cos and sin [B, T, H/2].

    scale: [B, T] factor of the queries, or None. positioned: whether the layer has positions.
    Attention in tiles makes its masks of `sight`. Splash attention needs no mask but `segments`
    [B, T], a layer's chunks being segments of their own, and `local`: whether only the last tokens
    of the window are seen.
    """

    mask: jax.Array | None
    sight: sights.Sight | None
    segments: jax.Array | None
    local: jax.Array | None
    cos: jax.Array
    sin: jax.Array
    scale: jax.Array | None
    positioned: jax.Array
    kernel: str = struct.static(default="reference")


def declare(config: TransformerConfig, count: int, first: int = 0) -> Attention:
    """`count` layers' parameters, the first of which has that number."""
    own = config_parts.heads(config, first)
    n, d, h, k = count, config.width, own.head_dim, own.kv_heads
    g, into = config.heads // k, config.width**-0.5
    info: Any = params.ParamInfo
    back = (2 * config.layers) ** -0.5 * (config.heads * h) ** -0.5
    bias, gated = config.qkv_bias, config.attention_gate
    key = info((n, d, k, h), "layers fsdp kv head", into)
    key_bias = info((n, k, h), "layers kv head", 0) if bias else None
    return Attention(
        query=info((n, d, k, g, h), "layers fsdp kv group head", into),
        key=key if own.keys else None,
        value=key if own.values else None,
        out=info((n, k, g, h, d), "layers kv group head fsdp", back),
        query_bias=info((n, k, g, h), "layers kv group head", 0) if bias else None,
        key_bias=key_bias if own.keys else None,
        value_bias=key_bias if own.values else None,
        out_bias=info((n, d), "layers embed", 0) if config.out_bias else None,
        query_norm=_own_norm(config, (n, k, g, h), "layers kv group head"),
        key_norm=_own_norm(config, (n, k, h), "layers kv head") if own.keys else None,
        out_gate=info((n, d, k, g, h), "layers fsdp kv group head", into) if gated else None,
        out_gate_bias=info((n, k, g, h), "layers kv group head", 0) if gated and bias else None,
        sinks=info((n, k, g), "layers kv group", 0) if config.sinks else None,
    )


def _own_norm(config: TransformerConfig, shape: tuple[int, ...], names: str) -> Any:
    """ParamInfo of the scales of queries' or keys' own norm, if the family has such."""
    if config.qk_norm == "whole":
        return params.ParamInfo(shape, names, 0 if config.norm_plus_one else -1)
    own = (shape[0], shape[-1])
    return norm_info(config, own) if config.qk_norm == "scaled" else None


def norm_info(config: TransformerConfig, shape: tuple[int, ...]) -> Any:
    """ParamInfo of the scales of norms over the last axis: they start as the identity."""
    names = " ".join([*(["layers"] if len(shape) > 1 else []), "embed"])
    return params.ParamInfo(shape, names, 0 if config.norm_plus_one else -1)


def views(
    config: TransformerConfig,
    positions: jax.Array,
    segments: jax.Array,
    key_positions: jax.Array,
    key_segments: jax.Array,
    *,
    kernel: str = "reference",
) -> tuple[View, list[int]]:
    """(the views of all kinds of layer, stacked; each layer's place among them).

    kernel: one of `kernels.choose`.
    """
    kinds = config.kinds()
    # Layers without keys see nothing of it.
    distinct = [k for k in dict.fromkeys(kinds) if k not in config_parts.MIXERS] or ["full"]
    tuned = config.query_tuning > 0
    by_kind, widest = [], max(map(config.rotated, distinct)) // 2
    lengths = positions + 1
    if config.rope.by_length():
        lengths = _lengths(segments, key_positions, key_segments)
    for kind in distinct:
        turns = rope.angles(config, kind, positions, config.rotated(kind), lengths)
        cos, sin = (_widened(x, widest) for x in turns)
        place = jnp.floor((positions + 1.0) / config.query_tuning_span)
        tuning = 1.0 + (config.query_tuning if kind == "nope" else 0.0) * jnp.log1p(place)
        seen = sights.sight(
            *(positions, segments, key_positions, key_segments), kind=kind, window=config.window
        )
        splash = kernel == "splash"
        by_kind.append(
            View(
                mask=sights.visible(seen) if kernel in ("reference", "cudnn") else None,
                sight=seen if kernel == "tiled" else None,
                segments=_chunk_segments(config, kind, positions, segments) if splash else None,
                local=jnp.asarray(kind == "sliding") if splash else None,
                kernel=kernel,
                cos=cos,
                sin=sin,
                scale=tuning if tuned else None,
                positioned=jnp.asarray(kind != "nope"),
            )
        )
    return jax.tree.map(lambda *xs: jnp.stack(xs), *by_kind), [
        distinct.index(kind) if kind in distinct else 0 for kind in kinds
    ]


def _widened(x: jax.Array, size: int) -> jax.Array:
    """Angles [B, T, R/2] of a kind of layer as long as those of the others; `project` cuts them."""
    more = size - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, more))) if more else x


def _lengths(segments: Any, key_positions: Any, key_segments: Any) -> jax.Array:
    """[B, T]: tokens of the rows that are each token's own, so far: its segment's."""
    own = segments[:, :, None] == key_segments[:, None]
    return 1 + jnp.max(jnp.where(own, key_positions[:, None], 0), axis=-1)


def select(views: View, kind: jax.Array) -> View:
    """One of the stacked views."""
    return jax.tree.map(
        lambda v: v[0] if len(v) == 1 else jax.lax.dynamic_index_in_dim(v, kind, 0, False), views
    )


def _chunk_segments(
    config: TransformerConfig, kind: str, positions: jax.Array, segments: jax.Array
) -> jax.Array:
    """Segments [B, T] whose chunks, if the layer has such, are segments of their own."""
    if kind != "chunked":
        return segments.astype(jnp.int32)
    count = segments.shape[1] // config.window + 2  # chunks that a row can touch, and one more
    chunks = (positions // config.window) % count
    return jnp.where(segments > 0, segments * count + chunks, 0).astype(jnp.int32)


def attend_by_kernel(
    config: TransformerConfig,
    view: View,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    scale: float,
    softcap: float = 0.0,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """`attend` to what a layer's view shows, by its kernel."""
    if view.kernel == "cudnn" and view.mask is not None:
        return kernels.cudnn(query, key, value, view.mask, scale=scale)
    if view.kernel != "splash":
        return attend(query, key, value, _seen(view), scale=scale, softcap=softcap, sinks=sinks)
    scaled = (query * scale).astype(query.dtype)
    segments: Any = view.segments  # which a view without a mask has

    def run(window: int) -> jax.Array:
        own: dict[str, Any] = {"window": window, "softcap": softcap, "sinks": sinks}
        return kernels.splash(scaled, key, value, segments, **own)

    kinds = {kind == "sliding" for kind in config.kinds()}
    if len(kinds) == 1:
        return run(config.window if kinds == {True} else 0)
    return jax.lax.cond(view.local, lambda: run(config.window), lambda: run(0))


def _seen(view: View) -> Any:
    """The sight of a layer's queries, or the mask made of it."""
    return view.mask if view.sight is None else view.sight


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    seen: jax.Array | sights.Sight,
    *,
    scale: float,
    softcap: float = 0.0,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """softmax(softcap tanh(scale q k / softcap)) v, with fp32 scores; no cap where softcap is 0.

    Args:
      query: [B, T, K, G, H]. key: [B, K, S, H]. value: [B, K, S, U]. seen: a mask [B, T, S], true
        where visible, for scores written out in full; or a sight, for scores in tiles.
      sinks: [K, G], one more score of each softmax, uncapped and with a value of 0; or None.

    Returns:
      [B, T, K, G, U]. A query that sees nothing (padding) gets a finite value without meaning.

    Reference: Vaswani et al. 2017, equation 1; Ainslie et al. 2023 (grouped queries); Gemma Team
    2024 (Gemma 2, soft cap); OpenAI 2025 (GPT-OSS, section 2.2: sinks).
    """
    if isinstance(seen, sights.Sight):
        numbers: dict[str, Any] = {"scale": scale, "softcap": softcap, "sinks": sinks}
        return tiled_attention.attend(query, key, value, seen, **numbers)
    scores = scale * axes.einsum(
        "btkgh,bksh->bkgts", query, key, out="batch kv group time slot", dtype=jnp.float32
    )
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(seen[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = _shares(scores, sinks).astype(value.dtype)
    return axes.einsum("bkgts,bksu->btkgu", weights, value, out="batch time kv group head")


def _shares(scores: jax.Array, sinks: jax.Array | None) -> jax.Array:
    """The softmax of scores [B, K, G, T, S], beside a sink of each head [K, G]."""
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    sink = sinks.astype(jnp.float32)[None, :, :, None, None]
    top = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), sink)
    top = jax.lax.stop_gradient(top)
    parts = jnp.exp(scores - top)
    return parts / (jnp.sum(parts, axis=-1, keepdims=True) + jnp.exp(sink - top))


def _normed(config: TransformerConfig, x: jax.Array, scale: Any, view: View) -> jax.Array:
    """Queries or keys after their own norm, if the family has one."""
    if config.qk_norm == "none":
        return x
    over = x.ndim - 2 if config.qk_norm == "whole" else 1
    normed = layers.rms_norm(x, scale, config.norm_eps, plus_one=config.norm_plus_one, over=over)
    # Llama 4 norms after the rotation, and only where there is one; a rotation keeps the norm.
    return normed if config.qk_norm != "plain" else jnp.where(view.positioned, normed, x)


def project(
    config: TransformerConfig, weights: Attention, x: jax.Array, view: View
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """(query [B, T, K, G, H], key, value [B, T, K, H]) of x [B, T, D], normed and rotated.

    key and value are None of a layer that sees another one's.
    """
    query = layers.linear(
        "btd,dkgh->btkgh",
        x,
        weights.query,
        bias=weights.query_bias,
        stored="embed kv group head",
        out="batch time kv group head",
    )
    turned = min(view.cos.shape[-1], query.shape[-1] // 2)
    cos, sin = view.cos[..., :turned], view.sin[..., :turned]
    rotation = {"interleaved": config.rope_interleaved}
    query = rope.rotate(_normed(config, query, weights.query_norm, view), cos, sin, **rotation)
    if view.scale is not None:
        query = query * view.scale[:, :, None, None, None].astype(query.dtype)
    if weights.key is None:
        return query, None, None
    into = {"stored": "embed kv head", "out": "batch time kv head"}
    key = value = layers.linear("btd,dkh->btkh", x, weights.key, bias=weights.key_bias, **into)
    if weights.value is not None:
        value = layers.linear("btd,dkh->btkh", x, weights.value, bias=weights.value_bias, **into)
    key = rope.rotate(_normed(config, key, weights.key_norm, view), cos, sin, **rotation)
    if config.value_norm:
        value = layers.rms_norm(value, None, config.norm_eps)
    return query, key, value


def gate(weights: Attention, x: jax.Array) -> jax.Array | None:
    """[B, T, K, G, H] in (0, 1): what weighs that which the heads mix of x [B, T, D], if so."""
    if weights.out_gate is None:
        return None
    opened = layers.linear(
        "btd,dkgh->btkgh",
        x,
        weights.out_gate,
        bias=weights.out_gate_bias,
        stored="embed kv group head",
        out="batch time kv group head",
    )
    return jax.nn.sigmoid(checkpoint_name(opened, "projected"))


def mix(
    config: TransformerConfig,
    weights: Attention,
    view: View,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    opened: jax.Array | None = None,
) -> jax.Array:
    """What a layer's heads add to the residual stream, [B, T, D].

    query: [B, T, K, G, H] of `project`. key, value: [B, K, S, H], all that the view masks. opened:
    of `gate`.
    """
    # A query may see any slot of its row, so each device has all keys of the rows that it shares.
    key, value = (axes.shard(a.astype(query.dtype), "batch kv slot head") for a in (key, value))
    size = query.shape[-1]
    scale = config.query_scale or size**-0.5
    if view.kernel == "splash":
        # As the kernel reads it: what the backward pass keeps is neither scaled nor moved again.
        query, scale = (query * scale).astype(query.dtype), 1.0
        if size % kernels.LANES == 0:  # smaller heads would leave lanes empty
            query = axes.in_memory(query, (0, 2, 3, 1, 4))
    query, key, value = (checkpoint_name(a, "projected") for a in (query, key, value))
    numbers: dict[str, Any] = {"scale": scale, "softcap": config.attention_softcap}
    numbers["sinks"] = weights.sinks
    if weights.prefix is None:
        mixed = attend_by_kernel(config, view, query, key, value, **numbers)
    else:
        attend_to = functools.partial(attend, query, **numbers)
        mixed = weights.prefix.attend(attend_to, key, value, _seen(view))
    if view.kernel not in ("splash", "tiled"):  # which name their own results
        mixed = checkpoint_name(mixed, "mixed")
    mixed = mixed if opened is None else mixed * opened
    return layers.linear(
        "btkgh,kghd->btd",
        mixed,
        weights.out,
        bias=weights.out_bias,
        stored="kv group head embed",
        out="batch time embed",
    )
