"""A decoder: one body for training, prefill and decoding, and for every family of weights."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import (
    attention,
    block,
    cache,
    config_parts,
    kernels,
    layer_inputs,
    layers,
    mesh_sizes,
    model,
    moe,
    params,
)
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Transformer:
    """All weights. `blocks`: stacks of layers of one structure, in order. `unembed` is None where
    tied; `scalar` is None without a scalar head."""

    embed: jax.Array | layers.Table
    blocks: tuple[block.Block, ...]
    norm: jax.Array
    unembed: jax.Array | layers.Head | None = None
    scalar: jax.Array | None = None
    inputs: layer_inputs.Inputs | None = None  # of each layer's own


def declare(config: TransformerConfig) -> Transformer:
    """The parameters' shapes, axes and initial distributions.

    Matrices start normal with deviation width^-1/2, those that write into the residual stream
    smaller by (2 layers)^1/2 (Radford et al. 2019), the embedding with 0.02.
    """
    d = config.width
    info: Any = params.ParamInfo
    return Transformer(
        embed=info((config.vocab_size, d), "vocab fsdp", 0.02),
        blocks=tuple(
            block.declare(config, numbers, sparse=sparse) for sparse, numbers in config.stacks()
        ),
        norm=attention.norm_info(config, (d,)),
        unembed=None if config.tied else info((d, config.vocab_size), "fsdp vocab", d**-0.5),
        inputs=layer_inputs.declare(config),
    )


class _Carry(NamedTuple):
    """What passes from layer to layer."""

    x: jax.Array  # [B, T, D], the residual stream
    stored: cache.KeysValues | None  # all layers', where a cache is in use
    wide: cache.KeysValues | None  # likewise, of layers whose heads have other sizes
    states: cache.States | None  # likewise, of layers that have one
    penalties: moe.Penalties | None  # summed over the layers so far, where asked for


class _Stack(NamedTuple):
    """Layers of one structure, in order, with a leading layer axis; what a scan runs over."""

    block: block.Block
    layer: jax.Array  # [L] places among the layers of their mixer
    kind: jax.Array  # [L] places among the views
    own: jax.Array | None  # [L, B, T, P], the layers' own inputs


def _embed(config: TransformerConfig, table: Any, tokens: jax.Array) -> jax.Array:
    """The rows of the table [V, D] for tokens [B, T], in the compute dtype: [B, T, D]."""
    dtype = jnp.dtype(config.compute_dtype)
    with jax.named_scope("embed"):
        if isinstance(table, layers.Table):
            x = table.rows(tokens, dtype)
        else:
            table = axes.shard(table, "slot embed").astype(dtype)
            x = axes.take(table, tokens, out="batch time embed")
        return x if config.embed_scale == 1.0 else x * jnp.asarray(config.embed_scale, dtype)


def _kernel(
    config: TransformerConfig, weights: Transformer, queries: int, keys: int, *, cached: bool
) -> str:
    """The attention kernel: fused ones take whole rows, and no keys beside the tokens' own."""
    whole = not cached and all(
        part.attention.prefix is None
        for part in weights.blocks
        if isinstance(part.attention, attention.Attention)
    )
    dtype = config.compute_dtype
    return kernels.choose(config.attention_kernel, queries, keys, dtype=dtype, whole=whole)


def _stacks(
    config: TransformerConfig, weights: Transformer, kinds: list[int], own: jax.Array | None
) -> Iterator[tuple[int, _Stack]]:
    """The number of a run's first layer, and its layers' weights with their places and inputs."""
    runs = [numbers for _, numbers in config.stacks()]
    if len(weights.blocks) > len(runs):  # each layer apart: `_prepare`
        runs = [range(n, n + 1) for numbers in runs for n in numbers]
    placed = config_parts.placed(config)
    for part, numbers in zip(weights.blocks, runs, strict=True):
        places, views = (jnp.array([of[n] for n in numbers]) for of in (placed, kinds))
        inputs = None if own is None else own[numbers[0] : numbers[-1] + 1]
        yield numbers[0], _Stack(part, places, views, inputs)


def _run(
    config: TransformerConfig,
    number: int,
    stack: _Stack,
    carry: _Carry,
    views: attention.View,
    memory: cache.Memory,
) -> tuple[_Carry, cache.KeysValues | None]:
    """A run's layers, one after another, the first of them of that number; with the keys and values
    that it lends to later layers. memory: the cache's slots; what it holds is carried."""
    dtype = jnp.dtype(config.compute_dtype)
    wide, lends = (
        config_parts.mixer(config, number) == "wide",
        number in config_parts.lenders(config),
    )
    segments: Any = memory.segments

    def body(carry: _Carry, stack: _Stack) -> tuple[_Carry, cache.KeysValues | None]:
        # Cast before use, after the slice of the scan: master weights stay in their own dtype.
        weights = block.cast(stack.block, dtype)
        view = attention.select(views, stack.kind)
        stored = carry.wide if wide else carry.stored
        own = memory._replace(stored=stored, layer=stack.layer, states=carry.states)
        x, kept, routing = block.forward(config, weights, carry.x, view, own, stack.own)
        penalties = carry.penalties
        if penalties is not None and routing is not None:
            more = moe.penalties(config.moe, routing, segments)
            penalties = jax.tree.map(jnp.add, penalties, more)
        carry = carry._replace(x=x, states=kept.states, penalties=penalties)
        carry = carry._replace(wide=kept.stored) if wide else carry._replace(stored=kept.stored)
        return carry, kept.lent if lends else None

    count = len(stack.layer)
    keep = block.kept(config, segments.size, sparse=block.is_sparse(stack.block))
    unroll = unrolled(config, count, keep)
    layer = block.remat(keep, body, looped=unroll < count)
    carry, lent = jax.lax.scan(layer, carry, stack, unroll=unroll)
    return carry, jax.tree.map(lambda x: x[0], lent)


def unrolled(config: TransformerConfig, count: int, keep: str) -> int:
    """Layers in one step of the scan over `count` layers, of which each keeps `keep`.

    XLA's CPU compiler drops the barriers that hold a recomputation apart from the first
    computation, and merges them: only the forward and the backward loop do. So layers that
    recompute stay in loops of two steps or more, without a rest.
    """
    most = min(config.unroll, count)
    if keep == "none" or axes.platform() != "cpu":
        return most
    fit = [n for n in range(1, most + 1) if count % n == 0 and n < count]
    return max(fit, default=1)


def _hidden(
    config: TransformerConfig,
    weights: Transformer,
    tokens: jax.Array,
    *,
    positions: jax.Array,
    segments: jax.Array,
    kv_cache: cache.KVCache | None = None,
    penalise: bool = False,
) -> tuple[jax.Array, cache.KVCache | None, moe.Penalties | None]:
    """(states [B, T, D], cache, router losses of all layers if `penalise`)."""
    tokens, positions, segments = (
        axes.shard(x, "batch time") for x in (tokens, positions, segments)
    )
    x = _embed(config, weights.embed, tokens)
    places = tuple(axes.shard(x, "batch slot") for x in (positions, segments))
    own = layer_inputs.of_tokens(config, weights.inputs, tokens, x)
    memory, wide = cache.Memory(None, jnp.zeros((), jnp.int32), None, segments=segments), None
    if kv_cache is not None:
        slots = cache.next_slots(kv_cache, segments)
        kv_cache = cache.extend(kv_cache, slots, positions, segments)
        places = (kv_cache.seen(kv_cache.positions), kv_cache.seen(kv_cache.segments))
        stored = cache.KeysValues(kv_cache.keys, kv_cache.values)
        memory = memory._replace(
            stored=stored, slots=slots, read=kv_cache.read, states=kv_cache.states
        )
        wide = kv_cache.wide
    sizes = tokens.shape[1], places[0].shape[1]
    kernel = _kernel(config, weights, *sizes, cached=kv_cache is not None)
    views, kinds = attention.views(config, positions, segments, *places, kernel=kernel)
    none = moe.no_penalties(segments) if penalise else None
    carry = _Carry(x, memory.stored, wide, memory.states, none)
    lent: dict[int, cache.KeysValues | None] = {}
    for number, stack in _stacks(config, weights, kinds, own):
        whose = lent.get(config_parts.lender(config, number))
        seen = memory._replace(lent=whose)
        carry, lent[number] = _run(config, number, stack, carry, views, seen)
    if kv_cache is not None and carry.stored is not None:
        kv_cache = cache.advance(kv_cache, carry.stored, segments, carry.states, carry.wide)
    x = layers.rms_norm(carry.x, weights.norm, config.norm_eps, plus_one=config.norm_plus_one)
    return x, kv_cache, carry.penalties


def _unembedding(config: TransformerConfig, weights: Transformer) -> jax.Array:
    """[D, V] in the compute dtype."""
    table, head = weights.embed, weights.unembed
    tied = table.turned() if isinstance(table, layers.Table) else table.T
    if isinstance(head, layers.Head):
        head = head.matrix(tied)
    return (tied if head is None else head).astype(config.compute_dtype)


_INNER = ("embed", "head")


def _narrow(config: TransformerConfig, weights: Transformer) -> Transformer:
    """The weights in the compute dtype, where they lie, without the scalar head."""
    dtype = jnp.dtype(config.compute_dtype)
    # What adapters make of an unembedding is made once, not at every token.
    is_tied = weights.unembed is None and not isinstance(weights.embed, layers.Table)
    return struct.replace(
        weights,
        embed=layers.cast(weights.embed, dtype),
        inputs=layers.cast(weights.inputs, dtype),
        blocks=tuple(block.cast(part, dtype) for part in weights.blocks),
        unembed=None if is_tied else _unembedding(config, weights),
        scalar=None,
    )


def _prepare(config: TransformerConfig, weights: Transformer) -> Transformer:
    """The weights as every decoding step reads them: cast, and gathered from the data axis.

    Done once, before the loop; each step would do it again for every token. On TPU and CPU each
    layer's weights get arrays of their own, as many stacks as layers: libtpu moves whole arrays to
    fast memory while others are computed with, but waits for HBM in a product with a part of a
    stack, which takes a third longer, and copies the part for a grouped product; XLA's CPU backend
    copies the part for every product.
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
            first = 1 if "layers" in names else 0  # of layers there may be one
            stored = x.shape[first:] == info.shape[first:]
            return axes.in_memory(axes.shard(x, names), order) if stored else x

        return jax.tree.map(move, part)

    used, declared = _narrow(config, weights), declare(config)
    blocks = []
    for infos, stack, (_, numbers) in zip(
        declared.blocks, used.blocks, config.stacks(), strict=True
    ):
        apart = axes.platform() in ("tpu", "cpu")
        slices = [slice(n, n + 1) for n in range(len(numbers))] if apart else [slice(None)]
        for part in slices:
            own = jax.tree.map(lambda x, part=part: x[part], stack)
            blocks.append(params.with_info(place, infos, own))
    rest = struct.replace(used, blocks=())
    placed = params.with_info(place, struct.replace(declared, blocks=()), rest)
    return struct.replace(placed, blocks=tuple(blocks), scalar=weights.scalar)


def transformer(config: TransformerConfig) -> model.Model:
    """The decoder of `config` as the functions that algorithms use."""
    config.validate()
    mesh_sizes.check(config)
    dtype = jnp.dtype(config.param_dtype)

    def hidden(
        weights: Transformer,
        tokens: jax.Array,
        *,
        positions: jax.Array,
        segments: jax.Array,
        cache: cache.KVCache | None = None,
    ) -> tuple[jax.Array, cache.KVCache | None]:
        run = functools.partial(_hidden, config, weights, tokens, kv_cache=cache)
        with contextlib.nullcontext() if cache is None else axes.whole("time"):
            x, cache, _ = run(positions=positions, segments=segments)
        return x, cache

    def unembedding(weights: Transformer) -> jax.Array:
        matrix = _unembedding(config, weights)
        scale = config.logit_scale
        return matrix if scale == 1.0 else matrix * jnp.asarray(scale, matrix.dtype)

    def scalar(weights: Transformer, states: jax.Array) -> jax.Array:
        return model.read_head(states, weights.scalar)

    def with_scalar(weights: Transformer, heads: int = 0) -> Transformer:
        return struct.replace(weights, scalar=model.zero_head(config.width, heads))

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
        branches=_branches(config),
    )


def _branches(config: TransformerConfig) -> bool:
    """Not where a kernel knows equal segments alone, where a layer's state runs on from segment to
    segment, or where a trunk's tokens would count or turn once instead of with each branch."""
    masked = config.attention_kernel in ("reference", "tiled", "cudnn")
    masked = masked or (config.attention_kernel == "auto" and axes.platform() != "tpu")
    runs_on = not {*config_parts.MIXERS}.isdisjoint(config.kinds())
    apart = runs_on or config.rope.by_length()
    return masked and not apart and _hidden_and_penalties(config) is None


def _hidden_and_penalties(config: TransformerConfig) -> Any:
    """`Model.hidden_and_penalties`, or None where no router loss has a weight."""
    moe_config = config.moe
    count = sum(len(numbers) for sparse, numbers in config.stacks() if sparse)
    factors = {"balance": moe_config.balance_loss, "z": moe_config.z_loss}
    factors = {name: factor / count for name, factor in factors.items() if count and factor}
    if not factors:
        return None

    def run(weights: Transformer, tokens: jax.Array, *, positions: Any, segments: Any) -> Any:
        x, _, penalties = _hidden(
            config, weights, tokens, positions=positions, segments=segments, penalise=True
        )
        terms = {f"router_{n}": f * getattr(penalties, n) for n, f in factors.items()}
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
    plain = config_parts.kept(config, "heads")
    kept = cache.empty(plain, batch, length, key, value, dtype, heads=shared)
    for kind, mixer in block.MIXERS.items():
        count = config_parts.kept(config, kind)
        if count:
            kept = struct.replace(kept, states=mixer.empty(config, count, batch, dtype))
    wide = config_parts.kept(config, "wide")
    if wide:
        size = (config.wide.kv_heads, config.wide.head_dim)
        both = (cache.blocks(wide, batch, length, size, dtype) for _ in range(2))
        kept = struct.replace(kept, wide=cache.KeysValues(*both))
    return kept
