"""One decoder layer: attention and an MLP, each added to the residual stream behind a norm."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import attention, cache, gated_delta, layers, mla, moe, params
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Block:
    """One decoder layer's weights; in the model every leaf has a leading layer axis."""

    attention_norm: jax.Array | None  # None without `pre_norms`
    attention: attention.Attention | mla.Mla | gated_delta.Delta
    mlp_norm: jax.Array | None
    mlp: layers.Mlp | moe.Moe
    attention_post_norm: jax.Array | None = None
    mlp_post_norm: jax.Array | None = None


def _declare_mlp(config: TransformerConfig, n: int) -> layers.Mlp:
    d, f, bias = config.width, config.ff, config.mlp_bias
    info: Any = params.ParamInfo
    return layers.Mlp(
        gate=info((n, d, f), "layers fsdp ff", d**-0.5),
        up=info((n, d, f), "layers fsdp ff", d**-0.5),
        down=info((n, f, d), "layers ff fsdp", (2 * config.layers * f) ** -0.5),
        gate_bias=info((n, f), "layers ff", 0) if bias else None,
        up_bias=info((n, f), "layers ff", 0) if bias else None,
        down_bias=info((n, d), "layers embed", 0) if bias else None,
    )


def declare(config: TransformerConfig, count: int, *, sparse: bool, delta: bool = False) -> Block:
    """`count` layers' parameters; sparse: whether their MLPs are mixtures of experts; delta:
    whether the gated delta rule stands in place of attention."""
    n, norm = count, attention.norm_info(config, (count, config.width))
    mixer: Any = gated_delta if delta else mla if config.mla.kv_rank else attention
    return Block(
        attention_norm=norm if config.pre_norms else None,
        attention=mixer.declare(config, n),
        mlp_norm=norm if config.pre_norms else None,
        mlp=moe.declare(config, n) if sparse else _declare_mlp(config, n),
        attention_post_norm=norm if config.post_norms else None,
        mlp_post_norm=norm if config.post_norms else None,
    )


def _norm(config: TransformerConfig, x: jax.Array, scale: Any) -> jax.Array:
    return layers.rms_norm(x, scale, config.norm_eps, plus_one=config.norm_plus_one)


def _attention(
    config: TransformerConfig,
    block: Block,
    x: jax.Array,
    view: attention.View,
    memory: cache.Memory,
) -> tuple[jax.Array, cache.Memory]:
    """(what the heads add to the residual stream x [B, T, D], what all layers keep)."""
    heads: Any = mla if config.mla.kv_rank else attention
    x = _pre_norm(config, x, block.attention_norm)
    if isinstance(block.attention, gated_delta.Delta):
        segments: Any = memory.segments
        added, states = gated_delta.mix(
            config, block.attention, x, segments, memory.states, memory.layer
        )
        memory = memory._replace(states=states)
        return _to_stream(config, added, block.attention_post_norm), memory
    query, key, value = heads.project(config, block.attention, x, view)
    more: tuple[jax.Array | None, ...] = ()
    if isinstance(block.attention, attention.Attention):
        more = (attention.gate(block.attention, x),)
    visible, stored = memory.extend(key, value)
    added = heads.mix(config, block.attention, view, query, *visible, *more)
    return _to_stream(config, added, block.attention_post_norm), memory._replace(stored=stored)


def _mlp(
    config: TransformerConfig, block: Block, x: jax.Array
) -> tuple[jax.Array, moe.Routing | None]:
    """(what the MLP adds to the residual stream x [B, T, D], its router's choices)."""
    x, routing = _pre_norm(config, x, block.mlp_norm), None
    if isinstance(block.mlp, moe.Moe):
        added, routing = moe.mixture(config, block.mlp, x)
    else:
        added = layers.gated_mlp(block.mlp, x, config.activation)
    return _to_stream(config, added, block.mlp_post_norm), routing


def _pre_norm(config: TransformerConfig, x: jax.Array, scale: Any) -> jax.Array:
    return _norm(config, x, scale) if config.pre_norms else x


def _to_stream(config: TransformerConfig, x: jax.Array, scale: Any) -> jax.Array:
    """What a branch adds to the residual stream."""
    x = _norm(config, x, scale) if config.post_norms else x
    return x if config.branch_scale == 1.0 else x * jnp.asarray(config.branch_scale, x.dtype)


def forward(
    config: TransformerConfig,
    block: Block,
    x: jax.Array,
    view: attention.View,
    memory: cache.Memory,
) -> tuple[jax.Array, cache.Memory, moe.Routing | None]:
    """(the residual stream [B, T, D] after the layer, `memory` with its keys and values or its
    state, its router's choices).

    x = x + attention(norm(x)), x = x + mlp(norm(x)); with `post_norms` what is added is normed too,
    and without `pre_norms` it alone. What is added is multiplied by `branch_scale`.
    """
    with jax.named_scope("attention"):
        added, memory = _attention(config, block, x, view, memory)
        x = x + added
    with jax.named_scope("mlp"):
        added, routing = _mlp(config, block, x)
        x = x + added
    return x, memory, routing


def cast(block: Block, dtype: Any) -> Block:
    """The weights in the compute dtype; a router's and decays' keep their own."""
    used = layers.cast(block, dtype)
    if isinstance(block.attention, gated_delta.Delta):
        used = struct.replace(used, attention=gated_delta.cast(block.attention, dtype))
    if isinstance(block.mlp, moe.Moe):
        return struct.replace(used, mlp=moe.cast(block.mlp, dtype))
    return used


LEAN_STATE = 2**18  # elements of a batch's stream (1024 tokens of width 256): a smaller one
# compiles faster where everything is kept, and holds little.


def kept(config: TransformerConfig, tokens: int, *, sparse: bool) -> str:
    """What a layer of so many tokens keeps for its gradient: `config.remat`, or what "auto" means.

    On a CPU "dots": a step holds half, and what lies between products costs little to compute again
    beside them. Not of mixtures, whose products of runs of rows it would
    compute again; nor on accelerators, where it costs time.
    """
    if config.remat != "auto":
        return config.remat
    lean = axes.platform() == "cpu" and not sparse and tokens * config.width >= LEAN_STATE
    return "dots" if lean else "none"


def remat(keep: str, body: Any, *, looped: bool) -> Any:
    """`body`, a layer's forward pass, that keeps for its gradient what `kept` names.

    looped: whether it is the body of a loop of more than one step.
    """
    if keep == "none":
        return body
    policies = jax.checkpoint_policies
    mixed = policies.save_only_these_names("mixed")
    policy = {
        "dots": policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, mixed),
        "heads": policies.save_only_these_names("projected", "mixed"),
        "attention": mixed,
        "full": policies.nothing_saveable,
    }[keep]
    # Outside a loop the compiler would merge the recomputation with the first computation.
    return jax.checkpoint(body, policy=policy, prevent_cse=not looped)
