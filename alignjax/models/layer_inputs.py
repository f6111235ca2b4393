"""An embedding that each layer has of its own, beside the one that all share (Gemma 4)."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import layers, params
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Inputs:
    """Weights of all L layers: embed_table [V, L P], of a token's inputs side by side; project
    [L, D, P], from the embedding that all layers share; norm [P], of what it makes."""

    embed_table: jax.Array
    project: jax.Array
    norm: jax.Array


@struct.pytree
class Reader:
    """How one layer takes its input: open [D, P], back [P, D], norm [D] of what is added."""

    open: jax.Array
    back: jax.Array
    norm: jax.Array


def declare(config: TransformerConfig) -> Inputs | None:
    """The parameters' shapes, or None where layers have no inputs of their own."""
    p, d, n = config.layer_inputs, config.width, config.layers
    info: Any = params.ParamInfo
    if not p:
        return None
    return Inputs(
        embed_table=info((config.vocab_size, n * p), "vocab fsdp", 0.02),
        project=info((n, d, p), "layers fsdp ff", d**-0.5),
        norm=info((p,), "embed", 0 if config.norm_plus_one else -1),
    )


def declare_reader(config: TransformerConfig, count: int) -> Reader | None:
    """`count` layers' parameters."""
    p, d, n = config.layer_inputs, config.width, count
    info: Any = params.ParamInfo
    if not p:
        return None
    return Reader(
        open=info((n, d, p), "layers fsdp ff", d**-0.5),
        back=info((n, p, d), "layers ff fsdp", (2 * config.layers * p) ** -0.5),
        norm=info((n, d), "layers embed", 0 if config.norm_plus_one else -1),
    )


def of_tokens(
    config: TransformerConfig, weights: Inputs | None, tokens: jax.Array, x: jax.Array
) -> jax.Array | None:
    """[L, B, T, P] of tokens [B, T] and their scaled embedding x [B, T, D]; None without weights.

    (norm(x project D^-1/2) + P^1/2 table[token]) 2^-1/2, layer by layer.

    Reference: Google 2026 (Gemma 4, per-layer embeddings).
    """
    if weights is None:
        return None
    size, dtype = config.layer_inputs, x.dtype
    with jax.named_scope("layer_inputs"):
        table = axes.shard(weights.embed_table, "slot embed").astype(dtype)
        rows = axes.take(table, tokens, out="batch time embed")
        rows = axes.reshape(rows, (*tokens.shape, config.layers, size), "batch time layers embed")
        rows = axes.shard(jnp.moveaxis(rows, 2, 0), "layers batch time ff")
        seen = layers.linear(
            "btd,ldp->lbtp",
            x,
            weights.project.astype(dtype),
            stored="layers embed ff",
            out="layers batch time ff",
        )
        seen = seen * jnp.asarray(config.width**-0.5, dtype)
        # The norm is over all of P, which the model axis splits.
        whole = axes.shard(seen, "layers batch time embed")
        plus = config.norm_plus_one
        seen = layers.rms_norm(whole, weights.norm, config.norm_eps, plus_one=plus)
        own = axes.shard(seen, "layers batch time ff") + rows * jnp.asarray(size**0.5, dtype)
        return own * jnp.asarray(2.0**-0.5, dtype)


def read(config: TransformerConfig, weights: Reader, x: jax.Array, own: jax.Array) -> jax.Array:
    """What a layer adds to the stream x [B, T, D] for its own input [B, T, P]:
    norm((act(x open) own) back)."""
    opened = layers.linear("btd,df->btf", x, weights.open, stored="embed ff", out="batch time ff")
    back = layers.linear(
        "btf,fd->btd",
        layers.activation(config.activation, opened) * own,
        weights.back,
        stored="ff embed",
        out="batch time embed",
    )
    return layers.rms_norm(back, weights.norm, config.norm_eps, plus_one=config.norm_plus_one)
