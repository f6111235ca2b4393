"""Layers of a short gated convolution (LFM2), which keep their last inputs in place of keys."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from alignjax.core import struct
from alignjax.models import delta_rule, layers, params
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class ShortConv:
    """Weights, of C = D channels: in_gate, out_gate and value [D, C]; taps [C, W], over W tokens,
    the last tap that of the token itself; out [C, D]. Biases [C], of out [D], or None."""

    in_gate: layers.Weight
    out_gate: layers.Weight
    value: layers.Weight
    taps: jax.Array
    out: layers.Weight
    in_gate_bias: jax.Array | None = None
    out_gate_bias: jax.Array | None = None
    value_bias: jax.Array | None = None
    taps_bias: jax.Array | None = None
    out_bias: jax.Array | None = None


@struct.pytree
class States:
    """What L such layers keep of B rows, at any length.

    inputs: [L, B, W-1, C], the last inputs of the convolution. last: [B] the segment of the last
    token, 0 before the first: a token of another one finds none of them.
    """

    inputs: jax.Array
    last: jax.Array


def declare(config: TransformerConfig, count: int) -> ShortConv:
    """`count` layers' parameters."""
    n, d, width = count, config.width, config.conv.taps
    info: Any = params.ParamInfo
    into = info((n, d, d), "layers fsdp ff", d**-0.5)
    shift = info((n, d), "layers ff", 0) if config.conv.bias else None
    return ShortConv(
        in_gate=into,
        out_gate=into,
        value=into,
        taps=info((n, d, width), "layers ff slot", width**-0.5),
        out=info((n, d, d), "layers ff fsdp", (2 * config.layers * d) ** -0.5),
        in_gate_bias=shift,
        out_gate_bias=shift,
        value_bias=shift,
        taps_bias=shift,
        out_bias=info((n, d), "layers embed", 0) if config.conv.bias else None,
    )


_INPUTS = "batch slot ff"


def empty(config: TransformerConfig, count: int, batch: int, dtype: Any) -> States:
    """States of `count` layers that have read nothing."""
    inputs = jnp.zeros((count, batch, config.conv.taps - 1, config.width), dtype)
    return States(
        inputs=axes.shard(inputs, f"layers {_INPUTS}"),
        last=axes.shard(jnp.zeros((batch,), jnp.int32), "batch"),
    )


def mix(
    config: TransformerConfig,
    weights: ShortConv,
    x: jax.Array,
    segments: jax.Array,
    states: States | None,
    layer: jax.Array,
) -> tuple[jax.Array, States | None]:
    """(what the layer adds to the residual stream x [B, T, D], `states` with its new part).

    (x W_out_gate * conv(x W_in_gate * x W_value)) W_out, the convolution over the last W tokens of
    a token's own segment, each channel by itself.

    segments: [B, T]. states: of all layers, None where rows begin here and end; layer: this one's
    place in it. Devices that share rows by time each go over all of it.

    Reference: Liquid AI 2025 (LFM2, section 2).
    """
    into = {"stored": "embed ff", "out": "batch time ff"}
    before, after, value = (
        layers.linear(
            "btd,dc->btc",
            x,
            getattr(weights, name),
            bias=getattr(weights, f"{name}_bias"),
            **into,
        )
        for name in ("in_gate", "out_gate", "value")
    )
    read = axes.shard(before * value, _INPUTS)
    given = states or empty(config, 1, x.shape[0], x.dtype)
    place = layer if states else jnp.zeros((), jnp.int32)
    held = jax.lax.dynamic_index_in_dim(given.inputs, place, 0, keepdims=False)
    run = axes.per_shard(
        _own, (_INPUTS, "ff slot", _INPUTS, "batch slot", "batch"), (_INPUTS, _INPUTS)
    )
    rows = axes.shard(segments.astype(jnp.int32), "batch slot")
    found, held = run(read, axes.shard(weights.taps, "ff slot"), held, rows, given.last)
    found = checkpoint_name(axes.shard(found, "batch time ff"), "mixed")
    if weights.taps_bias is not None:
        found = found + axes.shard(weights.taps_bias, "ff")
    added = layers.linear(
        "btc,cd->btd",
        after * found,
        weights.out,
        bias=weights.out_bias,
        stored="ff embed",
        out="batch time embed",
    )
    if states is None:
        return added, None
    kept = held.astype(states.inputs.dtype)
    inputs = jax.lax.dynamic_update_index_in_dim(states.inputs, kept, layer, 0)
    return added, struct.replace(states, inputs=inputs)


def _own(
    read: jax.Array, taps: jax.Array, held: jax.Array, segments: jax.Array, last: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(the convolution [B, T, C], the last inputs) of one device's rows and channels."""
    parts = delta_rule.runs(segments, last)
    return delta_rule.convolve(read, taps, held, parts, activation="none")
