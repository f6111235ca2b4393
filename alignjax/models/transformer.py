"""A decoder: one body for training, prefill and decoding, and for every family of weights."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import attention, cache, kernels, layers, mla, model, moe, params
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Block:
    """One decoder layer's weights; in the model every leaf has a leading layer axis."""

    attention_norm: Any
    attention: attention.Attention | mla.Mla
    mlp_norm: Any
    mlp: layers.Mlp | moe.Moe
    attention_post_norm: Any = None
    mlp_post_norm: Any = None


@struct.pytree
class Transformer:
    """All weights. `blocks`: stacks of layers of one structure, in order. `unembed` is None where
    tied; `scalar` is None without a scalar head."""

    embed: Any
    blocks: tuple[Block, ...]
    norm: Any
    unembed: Any = None
    scalar: Any = None


def declare(config: TransformerConfig) -> Transformer:
    """The parameters' shapes, axes and initial laws.

    Matrices start normal with deviation width^-1/2, those that write into the residual stream
    smaller by (2 layers)^1/2 (Radford et al. 2019), the embedding with 0.02.
    """
    d, info = config.width, params.ParamInfo
    return Transformer(
        embed=info((config.vocab_size, d), "vocab fsdp", 0.02),
        blocks=tuple(
            _declare_blocks(config, len(numbers), sparse) for sparse, numbers in config.stacks()
        ),
        norm=attention.norm_info(config, (d,)),
        unembed=None if config.tied else info((d, config.vocab_size), "fsdp vocab", d**-0.5),
    )


def _declare_mlp(config: TransformerConfig, n: int) -> layers.Mlp:
    d, f, info, bias = config.width, config.ff, params.ParamInfo, config.mlp_bias
    return layers.Mlp(
        gate=info((n, d, f), "layers fsdp ff", d**-0.5),
        up=info((n, d, f), "layers fsdp ff", d**-0.5),
        down=info((n, f, d), "layers ff fsdp", (2 * config.layers * f) ** -0.5),
        gate_bias=info((n, f), "layers ff", 0) if bias else None,
        up_bias=info((n, f), "layers ff", 0) if bias else None,
        down_bias=info((n, d), "layers embed", 0) if bias else None,
    )


def _declare_blocks(config: TransformerConfig, n: int, sparse: bool) -> Block:
    norm = attention.norm_info(config, (n, config.width))
    return Block(
        attention_norm=norm,
        attention=(mla if config.mla.kv_rank else attention).declare(config, n),
        mlp_norm=norm,
        mlp=moe.declare(config, n) if sparse else _declare_mlp(config, n),
        attention_post_norm=norm if config.post_norms else None,
        mlp_post_norm=norm if config.post_norms else None,
    )


def _block(
    config: TransformerConfig,
    x: jax.Array,
    block: Block,
    view: attention.View,
    layer: jax.Array,
    kv: Any,
    index: Any,
) -> tuple[jax.Array, Any, moe.Routing | None]:
    """One decoder layer. `kv` is (keys, values) of all layers when a cache is in use."""
    norm = functools.partial(layers.rms_norm, eps=config.norm_eps, plus_one=config.norm_plus_one)
    stored = kv

    def remember(key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        nonlocal stored
        key, value = (jnp.swapaxes(a, 1, 2) for a in (key, value))
        if kv is None:
            return key, value
        stored = (cache.write(kv[0], layer, index, key), cache.write(kv[1], layer, index, value))
        key, value = (jax.lax.dynamic_index_in_dim(b, layer, 0, keepdims=False) for b in stored)
        return key, value

    with jax.named_scope("attention"):
        attend = mla.latent_attention if config.mla.kv_rank else attention.attention
        normed = norm(x, block.attention_norm)
        added = attend(config, block.attention, normed, view, remember)  # type: ignore[arg-type]
        if config.post_norms:
            added = norm(added, block.attention_post_norm)
        x = x + added
    with jax.named_scope("mlp"):
        normed, routing = norm(x, block.mlp_norm), None
        if isinstance(block.mlp, moe.Moe):
            added, routing = moe.mixture(config, block.mlp, normed)
        else:
            added = layers.gated_mlp(block.mlp, normed, config.activation)
        if config.post_norms:
            added = norm(added, block.mlp_post_norm)
        x = x + added
    return x, stored, routing


def _cast(block: Block, dtype: Any) -> Block:
    used = layers.cast(block, dtype)
    if isinstance(block.mlp, moe.Moe):
        return struct.replace(used, mlp=moe.cast(block.mlp, dtype))
    return used


def _remat(config: TransformerConfig, body: Any, *, looped: bool) -> Any:
    if config.remat == "none":
        return body
    policies = jax.checkpoint_policies
    mixed = policies.save_only_these_names("mixed")
    policy = {
        "dots": policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, mixed),
        "heads": policies.save_only_these_names("projected", "mixed"),
        "attention": mixed,
        "full": policies.nothing_saveable,
    }[config.remat]
    # Outside a loop the compiler would take what is made again for what was made before.
    return jax.checkpoint(body, policy=policy, prevent_cse=not looped)


def _kernel(config: TransformerConfig, weights: Transformer, cache_state: Any) -> str:
    """How this call attends: kernels take whole rows, and no keys beside the tokens' own."""
    whole = cache_state is None and all(
        block.attention.prefix is None
        for block in weights.blocks
        if isinstance(block.attention, attention.Attention)
    )
    return kernels.choose(config.attention_kernel) if whole else "reference"


def _hidden(
    config: TransformerConfig,
    weights: Transformer,
    tokens: jax.Array,
    *,
    positions: jax.Array,
    segments: jax.Array,
    cache_state: cache.KVCache | None = None,
    penalise: bool = False,
) -> tuple[jax.Array, cache.KVCache | None, moe.Penalties | None]:
    """(states [B, T, D], cache, router losses of all layers if `penalise`)."""
    dtype = jnp.dtype(config.compute_dtype)
    tokens, positions, segments = (
        axes.shard(x, "batch time") for x in (tokens, positions, segments)
    )
    with jax.named_scope("embed"):
        table = axes.shard(weights.embed, "slot embed").astype(dtype)
        x = axes.take(table, tokens, out="batch time embed")
        if config.embed_scale != 1.0:
            x = x * jnp.asarray(config.embed_scale, dtype)
    kv: Any = None
    index: Any = None
    seen = tuple(axes.shard(x, "batch slot") for x in (positions, segments))
    if cache_state is not None:
        cache_state = cache.extend(cache_state, positions, segments)
        seen = (cache_state.positions, cache_state.segments)
        kv, index = (cache_state.keys, cache_state.values), cache_state.index
    kernel = _kernel(config, weights, cache_state)
    views, kinds = attention.views(
        config, config.rotated(), positions, segments, *seen, kernel=kernel
    )
    fined = moe.no_penalties(segments) if penalise else None

    def body(carry: Any, xs: Any) -> tuple[Any, None]:
        block, layer, kind = xs
        # Cast before use, after the slice of the scan: master weights stay in their own dtype.
        block = _cast(block, dtype)
        view = jax.tree.map(
            lambda v: v[0] if len(v) == 1 else jax.lax.dynamic_index_in_dim(v, kind, 0, False),
            views,
        )
        x, kv, fined = carry
        x, kv, routing = _block(config, x, block, view, layer, kv, index)
        if fined is not None and routing is not None:
            more = moe.penalties(config.moe, routing, segments)
            fined = jax.tree.map(jnp.add, fined, more)
        return (x, kv, fined), None

    stacks = [numbers for _, numbers in config.stacks()]
    if len(weights.blocks) > len(stacks):  # each layer apart
        stacks = [range(n, n + 1) for numbers in stacks for n in numbers]
    for block, numbers in zip(weights.blocks, stacks, strict=True):
        each = (block, jnp.array(numbers), jnp.array([kinds[n] for n in numbers]))
        unroll = min(config.unroll, len(numbers))
        run = _remat(config, body, looped=unroll < len(numbers))
        (x, kv, fined), _ = jax.lax.scan(run, (x, kv, fined), each, unroll=unroll)
    if cache_state is not None:
        cache_state = struct.replace(
            cache_state, keys=kv[0], values=kv[1], index=index + tokens.shape[1]
        )
    x = layers.rms_norm(x, weights.norm, config.norm_eps, plus_one=config.norm_plus_one)
    return x, cache_state, fined


_INNER = ("embed", "head")


def _narrow(config: TransformerConfig, weights: Transformer) -> Transformer:
    """The weights in the compute dtype, where they lie, without the scalar head."""
    dtype = jnp.dtype(config.compute_dtype)
    return struct.replace(
        weights,
        embed=weights.embed.astype(dtype),
        blocks=tuple(_cast(block, dtype) for block in weights.blocks),
        unembed=None if config.tied else weights.unembed.astype(dtype),
        scalar=None,
    )


def _prepare(config: TransformerConfig, weights: Transformer) -> Transformer:
    """The weights as every decoding step reads them: cast, and gathered from the data axis.

    Done once, before the loop; each step would do it again for every token. On TPU each layer's
    weights get arrays of their own, as many stacks as layers: libtpu moves whole arrays to fast
    memory while others are computed with, but waits for HBM in a product with a part of a stack,
    which takes a third longer, and copies the part for a grouped product.
    """

    def place(info: params.ParamInfo | None, part: Any) -> Any:
        if info is None:  # nothing, or what an adapter put beside the weights
            return part
        names = axes.used(info.axes)
        # What is contracted stands beside the heads' own axis, as the products of one token want;
        # grouped products want their experts as they are.
        inner = () if "experts" in names else _INNER
        order = tuple(sorted(range(len(info.shape)), key=lambda n: names.split()[n] in inner))

        def move(x: jax.Array) -> jax.Array:
            stored = x.shape[1:] == info.shape[1:]
            return axes.in_memory(axes.shard(x, names), order) if stored else x

        return jax.tree.map(move, part)

    used = _narrow(config, weights)
    split, blocks = axes.platform() == "tpu", []
    declared = declare(config)
    for info, block, (_, numbers) in zip(
        declared.blocks, used.blocks, config.stacks(), strict=True
    ):
        parts = [slice(n, n + 1) for n in range(len(numbers))] if split else [slice(None)]
        for part in parts:
            own = jax.tree.map(lambda x, part=part: x[part], block)
            blocks.append(params.with_info(place, info, own))
    rest = struct.replace(used, blocks=())
    placed = params.with_info(place, struct.replace(declared, blocks=()), rest)
    return struct.replace(placed, blocks=tuple(blocks), scalar=weights.scalar)


def _check_mesh(config: TransformerConfig) -> None:
    """Refuses sizes that the current mesh does not divide."""
    sizes = [
        ("kv_heads", config.kv_heads, "kv"),
        ("ff", config.ff, "ff"),
        ("vocab_size", config.vocab_size, "vocab"),
        ("width", config.width, "fsdp"),
    ]
    if config.moe.experts:
        sizes += [
            ("moe.experts", config.moe.experts, "experts"),
            ("moe.ff", config.moe.ff, "ff"),
            ("moe.shared_ff", config.moe.shared_ff, "ff"),
        ]
    for name, size, axis in sizes:
        shards, over = axes.axis_size(axis), " x ".join(axes.mesh_axes(axis))
        if size % shards:
            raise ValueError(
                f"model.{name} must be a multiple of the mesh's {over} axis; got {size} and "
                f"{shards} (mesh). Use a smaller {over} axis or another size."
            )


def transformer(config: TransformerConfig) -> model.Model:
    """The decoder of `config` as the functions that algorithms use."""
    config.validate()
    _check_mesh(config)
    dtype = jnp.dtype(config.param_dtype)

    def hidden(weights: Transformer, tokens: jax.Array, *, positions, segments, cache=None):
        run = functools.partial(_hidden, config, weights, tokens, cache_state=cache)
        with contextlib.nullcontext() if cache is None else axes.whole("time"):
            x, cache, _ = run(positions=positions, segments=segments)
        return x, cache

    def unembedding(weights: Transformer) -> jax.Array:
        matrix = weights.embed.T if config.tied else weights.unembed
        return matrix.astype(config.compute_dtype)

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
        bind=lambda weights, frozen, key=None: weights,
        vocab_size=config.vocab_size,
        logit_tile=config.logit_tile,
        logit_softcap=config.logit_softcap,
        rounding=_rounding(config),
        hidden_and_penalties=_hidden_and_penalties(config),
        declared=declare(config),
        narrow=functools.partial(_narrow, config),
        prepare=functools.partial(_prepare, config),
    )


def _hidden_and_penalties(config: TransformerConfig) -> Any:
    """What `Model.hidden_and_penalties` says, or None where no router loss has a weight."""
    each = config.moe
    count = sum(len(numbers) for sparse, numbers in config.stacks() if sparse)
    factors = {"balance": each.balance_loss, "z": each.z_loss}
    factors = {name: factor / count for name, factor in factors.items() if count and factor}
    if not factors:
        return None

    def run(weights: Transformer, tokens: jax.Array, *, positions: Any, segments: Any) -> Any:
        x, _, fined = _hidden(
            config, weights, tokens, positions=positions, segments=segments, penalise=True
        )
        terms = {f"router_{n}": f * getattr(fined, n) for n, f in factors.items()}
        return x, terms

    return run


def _rounding(config: TransformerConfig) -> float:
    """Full fp32 products exist by default on CPU only: GPUs and TPUs round their inputs."""
    exact = config.compute_dtype == "float32" and jax.default_backend() == "cpu"
    return 1e-4 if exact else 5e-2


def _cache(config: TransformerConfig, batch: int, length: int) -> cache.KVCache:
    key = value = (config.kv_heads, config.head_dim)
    shared = "kv"
    if config.mla.kv_rank:
        key, value, shared = (1, config.mla.kv_rank), (1, config.mla.rope_dim), "group"
    dtype = jnp.dtype(config.compute_dtype)
    return cache.empty(config.layers, batch, length, key, value, dtype, heads=shared)
