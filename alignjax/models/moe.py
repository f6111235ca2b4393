"""A mixture of experts without capacities: every token reaches every expert that it chose.

Tokens are sorted by expert, so that each expert multiplies one run of rows (a grouped matmul).
Over an `expert` mesh axis every device holds some experts and sees the tokens of all devices of
that axis; the sum over the axis then returns each device its own tokens. Nothing is dropped on any
layout. On CPU `jax.lax.ragged_dot` itself becomes a dense masked product; GPU and TPU have kernels.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import layers, params
from alignjax.models.config import MoeConfig, TransformerConfig
from alignjax.parallel import axes


@struct.pytree
class Moe:
    """Weights: router [D, E]; gate, up [E, D, F]; down [E, F, D]; shared MLP or None.

    correction: [E] or None, added to the scores that choose experts and to nothing else. It has no
    gradient (DeepSeek V3 moves it by a rule of its own).
    expert_scale: [E] or None, a factor of an expert's weight behind the choice (Gemma 4).
    Biases or None: of the router [E]; of gate and up [E, F]; of down [E, D].
    """

    router: jax.Array
    gate: layers.Weight
    up: layers.Weight
    down: layers.Weight
    shared: layers.Mlp | None = None
    shared_gate: jax.Array | None = None  # [D]
    correction: jax.Array | None = None
    router_bias: jax.Array | None = None
    gate_bias: jax.Array | None = None
    up_bias: jax.Array | None = None
    down_bias: jax.Array | None = None
    expert_scale: jax.Array | None = None


class Routing(NamedTuple):
    """A layer's router: logits [B, T, E] fp32 and the experts chosen [B, T, K]."""

    logits: jax.Array
    chosen: jax.Array


@struct.pytree
class Penalties:
    """Router losses [B, T] fp32 of each token, summed over layers; 0 on padding."""

    balance: jax.Array
    z: jax.Array


def declare(config: TransformerConfig, count: int) -> Moe:
    """`count` layers' parameters."""
    moe, n, d = config.moe, count, config.width
    info: Any = params.ParamInfo
    e, f, s = moe.experts, moe.ff, moe.shared_ff
    into, back = d**-0.5, (2 * config.layers) ** -0.5
    shared = layers.Mlp(
        gate=info((n, d, s), "layers fsdp ff", into),
        up=info((n, d, s), "layers fsdp ff", into),
        down=info((n, s, d), "layers ff fsdp", back * max(s, 1) ** -0.5),
    )
    return Moe(
        router=info((n, d, e), "layers fsdp route", into),
        gate=info((n, e, d, f), "layers experts fsdp ff", into),
        up=info((n, e, d, f), "layers experts fsdp ff", into),
        down=info((n, e, f, d), "layers experts ff fsdp", back * f**-0.5),
        shared=shared if s else None,
        shared_gate=info((n, d), "layers embed", into) if s and moe.shared_gate else None,
        correction=info((n, e), "layers route", 0) if moe.bias_correction else None,
        router_bias=info((n, e), "layers route", 0) if moe.bias else None,
        gate_bias=info((n, e, f), "layers experts ff", 0) if moe.bias else None,
        up_bias=info((n, e, f), "layers experts ff", 0) if moe.bias else None,
        down_bias=info((n, e, d), "layers experts embed", 0) if moe.bias else None,
        expert_scale=info((n, e), "layers route", -1) if moe.beside else None,
    )


def cast(weights: Moe, dtype: Any) -> Moe:
    """The weights in the compute dtype; the router's keep their own, for it works in fp32."""
    small = layers.cast(weights, dtype)
    own = ("router", "correction", "router_bias", "expert_scale")
    return struct.replace(small, **{name: getattr(weights, name) for name in own})


def scores(moe: MoeConfig, logits: jax.Array) -> jax.Array:
    """[..., E] softmax over all experts, or a sigmoid of each."""
    return jax.nn.softmax(logits, axis=-1) if moe.scores == "softmax" else jax.nn.sigmoid(logits)


def choose(moe: MoeConfig, logits: jax.Array, correction: Any) -> tuple[jax.Array, jax.Array]:
    """(weights [N, K], experts [N, K]) of each token, from fp32 logits [N, E].

    The K experts of the largest (corrected) score; with groups, within the `active_groups` groups
    whose two best corrected scores sum highest. Weights are the scores without correction, divided
    by their sum if `normalise`, times `scale`. A softmax over the chosen experts alone is the
    normalised softmax over all. Ties go to the lower expert.

    Reference: Jiang et al. 2024 (Mixtral), section 2.1; DeepSeek-AI 2024 (V3), equations 12 to 16.
    """
    score = scores(moe, logits)
    by = logits  # in the scores' order, and without ties where a score saturates
    if correction is not None or moe.groups > 1:
        by = score if correction is None else score + correction.astype(jnp.float32)
    if moe.groups > 1:
        grouped = by.reshape(-1, moe.groups, moe.experts // moe.groups)
        best = jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0].sum(axis=-1)
        kept = jax.nn.one_hot(jax.lax.top_k(best, moe.active_groups)[1], moe.groups).sum(axis=1)
        by = jnp.where(kept[:, :, None] > 0, grouped, -jnp.inf).reshape(by.shape)
    chosen = jax.lax.top_k(by, moe.active)[1]
    share = jnp.take_along_axis(score, chosen, axis=-1)
    if moe.normalise:
        share = share / (jnp.sum(share, axis=-1, keepdims=True) + 1e-20)
    return share * moe.scale, chosen


def _matmul(rows: jax.Array, weight: Any, sizes: jax.Array) -> jax.Array:
    """[N, outputs] of rows in runs, one an expert, of these sizes; an adapter does it itself."""
    if isinstance(weight, layers.Operator):
        operator: Any = weight
        return operator.grouped(rows, sizes)
    return jax.lax.ragged_dot(rows, weight, sizes)


def _held(weight: Any) -> int:
    """Experts of which this device holds the weights."""
    stack: Any = weight
    if isinstance(weight, layers.Operator) and not isinstance(weight, layers.Coded):
        stack = stack.base
    return stack.shape[0]


def _laid_out(weight: Any, inputs: str, outputs: str) -> Any:
    """The axes with which a stack of experts enters: its width in parts if it is stored so."""
    if isinstance(weight, layers.Operator):
        operator: Any = weight
        return operator.laid_out("experts", inputs, outputs)
    return axes.stored_width(weight, f"experts {inputs} {outputs}")


def _together(weights: Moe, used: Moe) -> Moe:
    """The stacks with all of their width; the gradient leaves by reduce-scatter."""

    def gather(names: Any, weight: Any) -> Any:
        if not isinstance(names, str) or "fsdp" not in names.split():
            return weight
        width = axes.mesh_axes("fsdp")
        return jax.lax.all_gather(weight, width, axis=names.split().index("fsdp"), tiled=True)

    return jax.tree.map(gather, used, weights, is_leaf=lambda x: isinstance(x, str))


@jax.custom_vjp
def _spread(x: jax.Array, order: jax.Array, back: jax.Array) -> jax.Array:
    """[N K, D]: each token of [N, D] once for each of its K experts, in the sorted order.

    order: [N K], which (token, choice) stands at each place. back: [N, K], at which place each
    (token, choice) stands. Both ways of the gradient are gathers, which devices do faster than
    sums into places that the data tells, and always in one order.
    """
    return x[order // back.shape[1]]


@jax.custom_vjp
def _collect(rows: jax.Array, order: jax.Array, back: jax.Array) -> jax.Array:
    """[N, D]: the sum of each token's K rows of [N K, D]; the transpose of `_spread`."""
    parts = (rows[back[:, k]].astype(jnp.float32) for k in range(back.shape[1]))
    return sum(parts, jnp.zeros((), jnp.float32)).astype(rows.dtype)


_spread.defvjp(
    lambda x, order, back: (_spread(x, order, back), (order, back)),
    lambda places, g: (_collect(g, *places), None, None),
)
_collect.defvjp(
    lambda rows, order, back: (_collect(rows, order, back), (order, back)),
    lambda places, g: (_spread(g, *places), None, None),
)


def _experts(
    config: TransformerConfig, weights: Moe, x: jax.Array, share: Any, chosen: Any, first: Any
) -> jax.Array:
    """[N, D]: what the experts `first`, `first` + 1, ... of `weights` add to tokens [N, D].

    Rows of other devices' experts are sorted behind all runs and kept out of both ends of the
    product, where a kernel may leave anything.
    """
    count = _held(weights.gate)
    local = chosen.reshape(-1) - first
    local = jnp.where((local >= 0) & (local < count), local, count)
    order = jnp.argsort(local, stable=True)
    back = jnp.argsort(order).reshape(chosen.shape)
    sizes = jnp.sum(jax.nn.one_hot(local, count, dtype=jnp.int32), axis=0)
    mine = jax.lax.broadcasted_iota(jnp.int32, (order.size, 1), 0) < jnp.sum(sizes)

    def own(rows: jax.Array) -> jax.Array:
        return rows if count == config.moe.experts else jnp.where(mine, rows, 0)

    weight_of = share
    share = own(share.reshape(-1)[order][:, None].astype(x.dtype))
    rows = own(_spread(x, order, back))
    if config.moe.weigh_inputs:
        rows = rows * share
    gate, up = (_matmul(rows, weight, sizes) for weight in (weights.gate, weights.up))
    if weights.gate_bias is not None and weights.up_bias is not None:
        whose = jax.nn.one_hot(local[order], count, dtype=rows.dtype)  # none of others' rows
        gate, up = gate + _exact(whose, weights.gate_bias), up + _exact(whose, weights.up_bias)
    inner = _gated(config, gate, up)
    if not config.moe.weigh_inputs:  # as on the product, which is linear, and is wider
        inner = inner * share
    out = _collect(own(_matmul(own(inner), weights.down, sizes)), order, back)
    if weights.down_bias is None:
        return out
    each = jax.nn.one_hot(local.reshape(chosen.shape), count, dtype=jnp.float32)
    weight = jnp.sum(each * weight_of[..., None], axis=1).astype(x.dtype)  # [N, E]
    return out + _first_part(_exact(weight, weights.down_bias), "ff")


def _exact(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product whose inputs no device rounds."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _first_part(x: jax.Array, name: str) -> jax.Array:
    """`x` on the first of the devices whose parts are summed over an axis, 0 on the others."""
    over = axes.mesh_axes(name)
    return jnp.where(jax.lax.axis_index(over) == 0, x, 0) if over else x


def _gated(config: TransformerConfig, gate: jax.Array, up: jax.Array) -> jax.Array:
    """act(gate) up; with `clamp` c: gate' sigmoid(gain gate') (up' + 1), where gate' = min(gate, c)
    and up' is up within +- c.

    Reference: OpenAI 2025 (GPT-OSS), section 2.3.
    """
    limit = config.moe.clamp
    if not limit:
        return layers.activation(config.activation, gate) * up
    gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
    return gate * jax.nn.sigmoid(config.moe.clamp_gain * gate) * (up + 1)


def _routed(
    config: TransformerConfig, weights: Moe, x: jax.Array, heard: jax.Array | None = None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The routed experts on one device's part of the batch."""
    over, split = axes.mesh_axes("experts"), axes.mesh_axes("ff")
    flat = x.reshape(-1, x.shape[-1])
    logits = jnp.einsum(
        "nd,de->ne",
        (flat if heard is None else heard.reshape(flat.shape)).astype(jnp.float32),
        weights.router.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    if weights.router_bias is not None:
        logits = logits + weights.router_bias.astype(jnp.float32)
    share, own = choose(config.moe, logits, weights.correction)
    if weights.expert_scale is not None:
        each = jax.nn.one_hot(own, config.moe.experts, dtype=jnp.float32)
        share = share * jnp.einsum(
            "nke,e->nk",
            each,
            weights.expert_scale.astype(jnp.float32),
            precision=jax.lax.Precision.HIGHEST,
        )
    chosen, first = own, jnp.zeros((), jnp.int32)
    if over:
        flat, share, chosen = (
            jax.lax.all_gather(a, over, axis=0, tiled=True) for a in (flat, share, own)
        )
        first = jax.lax.axis_index(over) * _held(weights.gate)
    out = _experts(config, weights, flat, share, chosen, first)
    if over:
        out = jax.lax.psum_scatter(out, over, scatter_dimension=0, tiled=True)
    if split:
        out = jax.lax.psum(out, split)
    routing = logits.reshape(*x.shape[:2], -1), own.reshape(*x.shape[:2], -1)
    return out.reshape(x.shape), routing


_SMALL = {  # of a layer, with their logical axes
    "correction": "route",
    "router_bias": "route",
    "gate_bias": "experts ff",
    "up_bias": "experts ff",
    "down_bias": "experts embed",
    "expert_scale": "route",
}


def mixture(
    config: TransformerConfig, weights: Moe, x: jax.Array, heard: jax.Array | None = None
) -> tuple[jax.Array, Routing]:
    """(what a layer's experts add to x [B, T, D], its router's logits and choices).

    sum over the chosen experts e of weight_e expert_e(x), or of expert_e(weight_e x) where
    `weigh_inputs`; plus the shared expert. Each expert is a gated MLP. heard: what the router reads
    [B, T, D] in place of x, if so.
    """
    names: dict[str, Any] = {
        "router": axes.stored_width(weights.router, "embed route"),
        "gate": _laid_out(weights.gate, "embed", "ff"),
        "up": _laid_out(weights.up, "embed", "ff"),
        "down": _laid_out(weights.down, "ff", "embed"),
        **{n: names for n, names in _SMALL.items() if getattr(weights, n) is not None},
    }
    used = Moe(**names)  # the logical axes with which the weights enter
    routed = struct.replace(weights, shared=None, shared_gate=None)
    routed = jax.tree.map(axes.shard, routed, used)
    given = (x,) if heard is None else (x, heard)
    run = axes.per_shard(
        lambda weights, *given: _routed(config, _together(weights, used), *given),
        (used, *("batch time embed" for _ in given)),
        ("batch time embed", ("batch time route", "batch time route")),
    )
    out, routing = run(routed, *given)
    if weights.shared is not None:
        common = layers.gated_mlp(weights.shared, x, config.activation)
        if weights.shared_gate is not None:
            heard = jnp.einsum("btd,d->bt", x, weights.shared_gate)
            common = common * jax.nn.sigmoid(heard)[..., None]
        out = out + common
    return out, Routing(*routing)


def penalties(moe: MoeConfig, routing: Routing, segments: jax.Array) -> Penalties:
    """One layer's router losses of each token; their mean over tokens is the layer's loss.

    balance: E sum_e f_e p_te, with f_e the share of the tokens of t's own segment that chose e and
      p_t the token's scores over their sum. Its mean over a segment is E sum_e f_e P_e, which is K
      where all experts are used alike. Segments, not batches, are averaged over, so that packing,
      micro-batches and devices change nothing.
    z: log(sum_e exp(logit_te))^2.

    Reference: Fedus et al. 2021, equations 4 to 6; DeepSeek-AI 2024 (V3), equations 17 to 20; Zoph
    et al. 2022, equation 5.
    """
    real = segments > 0
    score = scores(moe, routing.logits)
    share = score / jnp.sum(score, axis=-1, keepdims=True)
    used = jnp.sum(jax.nn.one_hot(routing.chosen, moe.experts, dtype=jnp.float32), axis=2)
    used = axes.shard(used, "batch slot route")
    others = axes.shard(segments, "batch slot")
    same = (segments[:, :, None] == others[:, None, :]) & real[:, :, None]
    near = same / jnp.maximum(jnp.sum(same, axis=-1, keepdims=True), 1)
    fraction = axes.einsum("bts,bse->bte", near, used, out="batch time route", dtype=jnp.float32)
    balance = moe.experts * jnp.sum(fraction * share, axis=-1)
    z = jax.nn.logsumexp(routing.logits, axis=-1) ** 2
    return Penalties(balance=jnp.where(real, balance, 0.0), z=jnp.where(real, z, 0.0))


def no_penalties(segments: jax.Array) -> Penalties:
    """Zeros to add to, laid out as the batch is."""
    none = jnp.zeros_like(segments, jnp.float32)
    return Penalties(balance=none, z=none)
