"""Layers of the gated delta rule: a mixer with a state of constant size in place of keys."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from alignjax.core import struct
from alignjax.models import delta_rule, layers, params
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Delta:
    """Weights. K key heads, G value heads on each, H a key's size, U a value's, V = G U.

    query, key [D, K, H]; value and out_gate [D, K, V]; write and decay [D, K, G]; out [K, V, D].
    query_taps, key_taps [K, H, W] and value_taps [K, V, W]: the convolution over W tokens, the
    last tap that of the token itself. decay_bias, decay_rate [K, G]: the latter a logarithm. norm:
    [U].
    """

    query: layers.Weight
    key: layers.Weight
    value: layers.Weight
    out_gate: layers.Weight
    write: layers.Weight
    decay: layers.Weight
    out: layers.Weight
    query_taps: jax.Array
    key_taps: jax.Array
    value_taps: jax.Array
    decay_bias: jax.Array
    decay_rate: jax.Array
    norm: jax.Array


@struct.pytree
class States:
    """What L such layers keep of B rows, at any length.

    rule: [L, B, K, G, H, U] fp32. inputs: [L, B, W-1, K, X], the last inputs of the convolution,
    queries, keys and values side by side. last: [B] the segment of the last token, 0 before the
    first: a token of another one finds an empty state.
    """

    rule: jax.Array
    inputs: jax.Array
    last: jax.Array


class Held(NamedTuple):
    """One layer's part of `States`."""

    rule: jax.Array
    inputs: jax.Array


def declare(config: TransformerConfig, count: int) -> Delta:
    """`count` layers' parameters. Decays start spread around exp(-softplus(1)) a token, as keys
    that forget soon and keys that do not."""
    d, delta, n = config.width, config.delta, count
    info: Any = params.ParamInfo
    k, h, v, g = delta.key_heads, delta.key_dim, delta.values, delta.group
    into, back = d**-0.5, (2 * config.layers * k * v) ** -0.5
    tap, width = (3 * delta.taps) ** -0.5, delta.taps
    return Delta(
        query=info((n, d, k, h), "layers fsdp kv head", into),
        key=info((n, d, k, h), "layers fsdp kv head", into),
        value=info((n, d, k, v), "layers fsdp kv head", into),
        out_gate=info((n, d, k, v), "layers fsdp kv head", into),
        write=info((n, d, k, g), "layers fsdp kv group", into),
        decay=info((n, d, k, g), "layers fsdp kv group", into),
        out=info((n, k, v, d), "layers kv head fsdp", back),
        query_taps=info((n, k, h, width), "layers kv head slot", tap),
        key_taps=info((n, k, h, width), "layers kv head slot", tap),
        value_taps=info((n, k, v, width), "layers kv head slot", tap),
        decay_bias=info((n, k, g), "layers kv group", -1),
        decay_rate=info((n, k, g), "layers kv group", 1.0),
        norm=info((n, delta.value_dim), "layers embed", -1),
    )


def cast(weights: Delta, dtype: Any) -> Delta:
    """The weights in the compute dtype; the decays' own keep theirs, for they work in fp32."""
    small = layers.cast(weights, dtype)
    return struct.replace(small, decay_bias=weights.decay_bias, decay_rate=weights.decay_rate)


_RULE, _INPUTS = "batch kv group head head", "batch slot kv head"


def empty(config: TransformerConfig, count: int, batch: int, dtype: Any) -> States:
    """States of `count` layers that have read nothing."""
    delta = config.delta
    k, g, h, u = delta.key_heads, delta.group, delta.key_dim, delta.value_dim
    rule = jnp.zeros((count, batch, k, g, h, u), jnp.float32)
    inputs = jnp.zeros((count, batch, delta.taps - 1, k, 2 * h + delta.values), dtype)
    return States(
        rule=axes.shard(rule, f"layers {_RULE}"),
        inputs=axes.shard(inputs, f"layers {_INPUTS}"),
        last=axes.shard(jnp.zeros((batch,), jnp.int32), "batch"),
    )


def of_layer(states: States, layer: jax.Array) -> Held:
    """One layer's part."""
    rule, inputs = (
        jax.lax.dynamic_index_in_dim(x, layer, 0, keepdims=False)
        for x in (states.rule, states.inputs)
    )
    return Held(rule, inputs)


def with_layer(states: States, layer: jax.Array, held: Held) -> States:
    """All layers' states with one layer's new part."""

    def put(kept: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(kept, new.astype(kept.dtype), layer, 0)

    rule, inputs = put(states.rule, held.rule), put(states.inputs, held.inputs)
    return struct.replace(states, rule=rule, inputs=inputs)


def _projected(weights: Delta, x: jax.Array) -> tuple[jax.Array, ...]:
    """(query, key, value, out_gate, write, decay) of x [B, T, D], before the convolution."""

    def one(weight: layers.Weight, letter: str, last: str) -> jax.Array:
        own = {"stored": f"embed kv {last}", "out": f"batch time kv {last}"}
        return layers.linear(f"btd,dk{letter}->btk{letter}", x, weight, **own)

    heads = ("query", "key", "value", "out_gate")
    return (
        *(one(getattr(weights, name), "h", "head") for name in heads),
        *(one(getattr(weights, name), "g", "group") for name in ("write", "decay")),
    )


def mix(
    config: TransformerConfig,
    weights: Delta,
    x: jax.Array,
    segments: jax.Array,
    states: States | None,
    layer: jax.Array,
) -> tuple[jax.Array, States | None]:
    """(what the layer adds to the residual stream x [B, T, D], `states` with its new part).

    q, k, v = silu(conv(x W)), q and k of length 1, q times H^-1/2; write = sigmoid(x W_write);
    decay = -exp(rate) softplus(x W_decay + bias); read = `delta_rule.gated_delta_rule`; added =
    (norm(read) silu(x W_gate)) W_out, each value head normed by itself.

    segments: [B, T]. states: of all layers, None where rows begin here and end; layer: this one's
    place in it. Devices that share rows by time each go over all of it.

    Reference: Yang et al. 2024 (Gated Delta Networks), section 3 and figure 1.
    """
    *read, gate, write, decay = _projected(weights, x)
    read, (write, decay) = (
        [axes.shard(a, f"batch slot kv {last}") for a in part]
        for part, last in ((read, "head"), ((write, decay), "group"))
    )
    given = states or empty(config, 1, x.shape[0], x.dtype)
    held = of_layer(given, layer if states else jnp.zeros((), jnp.int32))
    taps = (weights.query_taps, weights.key_taps, weights.value_taps)
    rates = (weights.decay_bias, weights.decay_rate)

    def own(*arguments: Any) -> Any:
        return _own(config, *arguments)

    wide, parted = "batch slot kv head", "batch slot kv group"
    inputs = (
        ((wide,) * 3, (parted,) * 2, "batch slot", "batch"),
        (("kv head slot",) * 3, ("kv group",) * 2),
        Held(_RULE, _INPUTS),  # type: ignore[arg-type]  # names of axes, leaf by leaf
    )
    run = axes.per_shard(own, inputs, (wide, inputs[2]))
    rows = axes.shard(segments.astype(jnp.int32), "batch slot")
    placed = tuple(axes.shard(tap, "kv head slot") for tap in taps)
    slow = tuple(axes.shard(rate, "kv group") for rate in rates)
    numbers = (tuple(read), (write, decay), rows, given.last)
    found, held = run(numbers, (placed, slow), held)
    found = checkpoint_name(axes.shard(found, "batch time kv head"), "mixed")
    shape = (*found.shape[:3], config.delta.group, config.delta.value_dim)
    by_head = axes.reshape(found, shape, "batch time kv group head")
    normed = layers.rms_norm(by_head, weights.norm, config.norm_eps)
    normed = axes.reshape(normed, found.shape, "batch time kv head")
    gated = (normed * jax.nn.silu(gate.astype(jnp.float32))).astype(x.dtype)
    added = layers.linear(
        "btkv,kvd->btd", gated, weights.out, stored="kv head embed", out="batch time embed"
    )
    return added, None if states is None else with_layer(states, layer, held)


def _own(config: TransformerConfig, numbers: Any, learned: Any, held: Held) -> Any:
    """(read [B, T, K, V], the state behind) of one device's rows and heads."""
    (query, key, value), (write, decay), segments, last = numbers
    (taps, (bias, rate)), delta = learned, config.delta
    b, t, k, h = query.shape
    joined = jnp.concatenate([query, key, value], axis=-1)
    kernel = jnp.concatenate(taps, axis=1)
    parts = delta_rule.runs(segments, last)
    width = joined.shape[-1]
    mixed, inputs = delta_rule.convolve(
        joined.reshape(b, t, -1),
        kernel.reshape(k * width, -1),
        held.inputs.reshape(b, delta.taps - 1, k * width),
        parts,
    )
    query, key, value = jnp.split(mixed.reshape(b, t, k, width), (h, 2 * h), axis=-1)
    wide = jnp.float32
    step = jax.nn.softplus(decay.astype(wide) + bias.astype(wide))
    read, rule = delta_rule.gated_delta_rule(
        delta_rule.unit(query) * h**-0.5,
        delta_rule.unit(key),
        value.reshape(b, t, k, delta.group, delta.value_dim),
        jax.nn.sigmoid(write.astype(wide)),
        -jnp.exp(rate.astype(wide)) * step,
        parts,
        held.rule,
    )
    inputs = inputs.reshape(held.inputs.shape).astype(held.inputs.dtype)
    return read.reshape(b, t, k, -1).astype(mixed.dtype), Held(rule, inputs)
