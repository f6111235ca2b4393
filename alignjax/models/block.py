"""One decoder layer: attention and an MLP, each added to the residual stream behind a norm."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import (
    attention,
    beside,
    cache,
    config_parts,
    gated_delta,
    layer_inputs,
    layers,
    mla,
    moe,
    params,
    short_conv,
)
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Block:
    """One decoder layer's weights; in the model every leaf has a leading layer axis."""

    attention_norm: jax.Array | None  # None without `pre_norms`
    attention: attention.Attention | mla.Mla | gated_delta.Delta | short_conv.ShortConv
    mlp_norm: jax.Array | None
    mlp: layers.Mlp | moe.Moe
    attention_post_norm: jax.Array | None = None
    mlp_post_norm: jax.Array | None = None
    reader: layer_inputs.Reader | None = None  # of the layer's own input
    joined: beside.Beside | None = None  # experts beside the MLP
    scalar: jax.Array | None = None  # [1], a factor of the layer's output, without a gradient


MIXERS: dict[str, Any] = {"delta": gated_delta, "conv": short_conv}  # each with a state of its own


def _declare_mlp(config: TransformerConfig, n: int, f: int) -> layers.Mlp:
    d, bias = config.width, config.mlp_bias
    info: Any = params.ParamInfo
    return layers.Mlp(
        gate=info((n, d, f), "layers fsdp ff", d**-0.5),
        up=info((n, d, f), "layers fsdp ff", d**-0.5),
        down=info((n, f, d), "layers ff fsdp", (2 * config.layers * f) ** -0.5),
        gate_bias=info((n, f), "layers ff", 0) if bias else None,
        up_bias=info((n, f), "layers ff", 0) if bias else None,
        down_bias=info((n, d), "layers embed", 0) if bias else None,
    )


def declare(config: TransformerConfig, numbers: range, *, sparse: bool) -> Block:
    """The parameters of layers of one structure; sparse: whether their MLPs are mixtures of
    experts."""
    n, norm = len(numbers), attention.norm_info(config, (len(numbers), config.width))
    scalar: Any = params.ParamInfo((n, 1), "layers embed", -1)
    both = sparse and config.moe.beside
    return Block(
        attention_norm=norm if config.pre_norms else None,
        attention=_declare_mixer(config, numbers),
        mlp_norm=norm if config.pre_norms else None,
        mlp=moe.declare(config, n)
        if sparse and not both
        else _declare_mlp(config, n, config_parts.inner(config, numbers[0])),
        attention_post_norm=norm if config.post_norms else None,
        mlp_post_norm=norm if config.post_norms else None,
        reader=layer_inputs.declare_reader(config, n),
        joined=beside.declare(config, n) if both else None,
        scalar=scalar if config.layer_scales else None,
    )


def _declare_mixer(config: TransformerConfig, numbers: range) -> Any:
    """Of attention, or of what stands in its place."""
    kind = config.mixes(numbers[0])
    if kind:
        return MIXERS[kind].declare(config, len(numbers))
    if config.mla.kv_rank:
        return mla.declare(config, len(numbers))
    return attention.declare(config, len(numbers), numbers[0])


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
    if isinstance(block.attention, gated_delta.Delta | short_conv.ShortConv):
        mixer: Any = gated_delta if isinstance(block.attention, gated_delta.Delta) else short_conv
        added, states = mixer.mix(
            config, block.attention, x, memory.segments, memory.states, memory.layer
        )
        memory = memory._replace(states=states)
        return _to_stream(config, added, block.attention_post_norm), memory
    query, key, value = heads.project(config, block.attention, x, view)
    more: tuple[jax.Array | None, ...] = ()
    if isinstance(block.attention, attention.Attention):
        more = (attention.gate(block.attention, x),)
    if key is None:
        visible = memory.shown()
    else:
        visible, stored = memory.extend(key, value)
        memory = memory._replace(stored=stored, lent=visible if stored is None else None)
    added = heads.mix(config, block.attention, view, query, *visible, *more)
    return _to_stream(config, added, block.attention_post_norm), memory


def _mlp(
    config: TransformerConfig, block: Block, x: jax.Array
) -> tuple[jax.Array, moe.Routing | None]:
    """(what the MLP adds to the residual stream x [B, T, D], its router's choices)."""
    stream, routing = x, None
    x = _pre_norm(config, x, block.mlp_norm)
    if isinstance(block.mlp, moe.Moe):
        added, routing = moe.mixture(config, block.mlp, x)
    else:
        added = layers.gated_mlp(block.mlp, x, config.activation)
    if block.joined is not None:
        added, routing = beside.join(config, block.joined, added, stream)
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
    own: jax.Array | None = None,
) -> tuple[jax.Array, cache.Memory, moe.Routing | None]:
    """(the residual stream [B, T, D] after the layer, `memory` with its keys and values or its
    state, its router's choices).

    x = x + attention(norm(x)), x = x + mlp(norm(x)); with `post_norms` what is added is normed too,
    and without `pre_norms` it alone. What is added is multiplied by `branch_scale`. own: the
    layer's own input [B, T, P], of `layer_inputs`. Last the stream is multiplied by `scalar`.
    """
    with jax.named_scope("attention"):
        added, memory = _attention(config, block, x, view, memory)
        x = x + added
    with jax.named_scope("mlp"):
        added, routing = _mlp(config, block, x)
        x = x + added
    if block.reader is not None and own is not None:
        with jax.named_scope("input"):
            x = x + layer_inputs.read(config, block.reader, x, own)
    if block.scalar is not None:
        x = x * jax.lax.stop_gradient(block.scalar).astype(x.dtype)
    return x, memory, routing


def cast(block: Block, dtype: Any) -> Block:
    """The weights in the compute dtype; a router's and decays' keep their own."""
    used = layers.cast(block, dtype)
    if isinstance(block.attention, gated_delta.Delta):
        used = struct.replace(used, attention=gated_delta.cast(block.attention, dtype))
    if block.joined is not None:
        used = struct.replace(used, joined=beside.cast(block.joined, dtype))
    if isinstance(block.mlp, moe.Moe):
        return struct.replace(used, mlp=moe.cast(block.mlp, dtype))
    return used


def is_sparse(block: Block) -> bool:
    """Whether the layers have experts."""
    return isinstance(block.mlp, moe.Moe) or block.joined is not None


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
