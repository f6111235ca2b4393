"""A Llama-style decoder: one body for training, prefill and decoding."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import attention, cache, layers, model, params
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Block:
    """One decoder layer's weights; in the model every leaf has a leading layer axis."""

    attention_norm: Any
    attention: attention.Attention
    mlp_norm: Any
    gate: Any
    up: Any
    down: Any


@struct.pytree
class Transformer:
    """All weights. `unembed` is None where tied; `scalar` is None without a scalar head."""

    embed: Any
    blocks: Block
    norm: Any
    unembed: Any = None
    scalar: Any = None


def declare(config: TransformerConfig) -> Transformer:
    """The parameters' shapes, axes and initial laws.

    Matrices start normal with deviation width^-1/2, those that write into the residual stream
    smaller by (2 layers)^1/2 (Radford et al. 2019), the embedding with 0.02.
    """
    n, d, f, h = config.layers, config.width, config.ff, config.head_dim
    k, g = config.kv_heads, config.heads // config.kv_heads
    info, into = params.ParamInfo, d**-0.5
    back = (2 * n) ** -0.5
    return Transformer(
        embed=info((config.vocab_size, d), "vocab fsdp", 0.02),
        blocks=Block(
            attention_norm=info((n, d), "layers embed", -1),
            attention=attention.Attention(
                query=info((n, d, k, g, h), "layers fsdp kv group head", into),
                key=info((n, d, k, h), "layers fsdp kv head", into),
                value=info((n, d, k, h), "layers fsdp kv head", into),
                out=info((n, k, g, h, d), "layers kv group head fsdp", back * (k * g * h) ** -0.5),
            ),
            mlp_norm=info((n, d), "layers embed", -1),
            gate=info((n, d, f), "layers fsdp ff", into),
            up=info((n, d, f), "layers fsdp ff", into),
            down=info((n, f, d), "layers ff fsdp", back * f**-0.5),
        ),
        norm=info((d,), "embed", -1),
        unembed=None if config.tied else info((d, config.vocab_size), "fsdp vocab", into),
    )


def _block(
    config: TransformerConfig,
    x: jax.Array,
    block: Block,
    angles: tuple[jax.Array, jax.Array],
    mask: jax.Array,
    layer: jax.Array,
    kv: Any,
    index: Any,
) -> tuple[jax.Array, Any]:
    """One decoder layer. `kv` is (keys, values) of all layers when a cache is in use."""
    with jax.named_scope("attention"):
        normed = layers.rms_norm(x, block.attention_norm, config.norm_eps)
        query, key, value = attention.project(block.attention, normed)
        query, key = layers.rotate(query, *angles), layers.rotate(key, *angles)
        if kv is not None:
            kv = (cache.write(kv[0], layer, index, key), cache.write(kv[1], layer, index, value))
            key, value = (jax.lax.dynamic_index_in_dim(b, layer, 0, keepdims=False) for b in kv)
        mixed = attention.attend(query, key.astype(x.dtype), value.astype(x.dtype), mask)
        x = x + attention.merge(block.attention, mixed)
    with jax.named_scope("mlp"):
        normed = layers.rms_norm(x, block.mlp_norm, config.norm_eps)
        x = x + layers.gated_mlp(normed, block.gate, block.up, block.down)
    return x, kv


def _remat(config: TransformerConfig, body: Any) -> Any:
    if config.remat == "none":
        return body
    policy = {
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "full": jax.checkpoint_policies.nothing_saveable,
    }[config.remat]
    return jax.checkpoint(body, policy=policy, prevent_cse=False)


def _hidden(
    config: TransformerConfig,
    weights: Transformer,
    tokens: jax.Array,
    *,
    positions: jax.Array,
    segments: jax.Array,
    cache_state: cache.KVCache | None = None,
) -> tuple[jax.Array, cache.KVCache | None]:
    dtype = jnp.dtype(config.compute_dtype)
    with jax.named_scope("embed"):
        table = axes.shard(weights.embed, "slot embed").astype(dtype)
        x = axes.take(table, tokens, out="batch time embed")
    angles = layers.rotary_angles(positions, config.head_dim, config.rope_theta)
    kv: Any = None
    index: Any = None
    if cache_state is None:
        mask = attention.visible(positions, segments, positions, segments)
    else:
        cache_state = cache.extend(cache_state, positions, segments)
        mask = attention.visible(positions, segments, cache_state.positions, cache_state.segments)
        kv, index = (cache_state.keys, cache_state.values), cache_state.index

    def body(carry: Any, xs: Any) -> tuple[Any, None]:
        block, layer = xs
        # Cast before use, after the slice of the scan: master weights stay in their own dtype.
        block = jax.tree.map(lambda w: w.astype(dtype), block)
        return _block(config, carry[0], block, angles, mask, layer, carry[1], index), None

    numbers = jnp.arange(config.layers)
    (x, kv), _ = jax.lax.scan(
        _remat(config, body), (x, kv), (weights.blocks, numbers), unroll=config.unroll
    )
    if cache_state is not None:
        cache_state = struct.replace(
            cache_state, keys=kv[0], values=kv[1], index=index + tokens.shape[1]
        )
    return layers.rms_norm(x, weights.norm, config.norm_eps), cache_state


def _check_mesh(config: TransformerConfig) -> None:
    """Refuses sizes that the current mesh does not divide."""
    for name, axis in (
        ("kv_heads", "kv"),
        ("ff", "ff"),
        ("vocab_size", "vocab"),
        ("width", "fsdp"),
    ):
        size, shards, over = getattr(config, name), axes.axis_size(axis), axes.RULES[axis][0]
        if size % shards:
            raise ValueError(
                f"model.{name} must be a multiple of the mesh's {over} axis; got {size} and "
                f"{shards} (mesh.{over}). Use a smaller {over} axis or another size."
            )


def transformer(config: TransformerConfig) -> model.Model:
    """The decoder of `config` as the functions that algorithms use."""
    config.validate()
    _check_mesh(config)
    dtype = jnp.dtype(config.param_dtype)

    def hidden(weights: Transformer, tokens: jax.Array, *, positions, segments, cache=None):
        return _hidden(
            config, weights, tokens, positions=positions, segments=segments, cache_state=cache
        )

    def unembedding(weights: Transformer) -> jax.Array:
        matrix = weights.embed.T if config.tied else weights.unembed
        return axes.shard(matrix, "embed vocab").astype(config.compute_dtype)

    def scalar(weights: Transformer, states: jax.Array) -> jax.Array:
        return jnp.einsum("btd,d->bt", states.astype(jnp.float32), weights.scalar)

    def with_scalar(weights: Transformer) -> Transformer:
        return struct.replace(weights, scalar=jnp.zeros((config.width,), jnp.float32))

    return model.Model(
        init=lambda key: params.init(declare(config), key, dtype),
        hidden=hidden,
        unembedding=unembedding,
        scalar=scalar,
        with_scalar=with_scalar,
        without_scalar=lambda weights: struct.replace(weights, scalar=None),
        cache=functools.partial(_cache, config),
        bind=lambda weights, frozen: weights,
        vocab_size=config.vocab_size,
        logit_tile=config.logit_tile,
        rounding=_rounding(config),
    )


def _rounding(config: TransformerConfig) -> float:
    """Full fp32 products exist by default on CPU only: GPUs and TPUs round their inputs."""
    exact = config.compute_dtype == "float32" and jax.default_backend() == "cpu"
    return 1e-4 if exact else 5e-2


def _cache(config: TransformerConfig, batch: int, length: int) -> cache.KVCache:
    return cache.empty(
        config.layers,
        batch,
        length,
        config.kv_heads,
        config.head_dim,
        jnp.dtype(config.compute_dtype),
    )
