"""FLOPs and parameters that a model's shape implies: what the compiler's count is held against."""

import math
from typing import Any, NamedTuple

import jax

from alignjax.models import config_parts, mla, params, transformer
from alignjax.models.adapters import adapt, lora
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes
from alignjax.planning import rule

TILE = 32 * 2**20  # bytes of logits above which the log-probabilities go tile by tile


class Work(NamedTuple):
    """FLOPs of matrix products of a whole program, all devices.

    useful: no recomputation, and of attention the pairs that are seen. run: what the program is
    written to do: masked scores in full, and recomputed what `remat` drops. scores: the part of
    `run` that is attention over pairs, which a kernel does in its own way.
    """

    useful: float
    run: float
    scores: float = 0.0


class Shape(NamedTuple):
    """A model as its products are counted.

    adapters: weights of adapters that a token meets; of them, whole: those whose product every
    device of the model axis computes. learns: whether the weights get gradients, or the adapters
    alone. dense: whether every expert multiplies every row that reaches its device, as a program
    without a kernel for runs of rows does. model, seq: sizes of these axes.
    """

    config: TransformerConfig
    adapters: int = 0
    whole: int = 0
    learns: bool = True
    dense: bool = False
    model: int = 1
    seq: int = 1

    @property
    def crowd(self) -> int:
        """Experts that each of a token's rows is multiplied by."""
        return self.config.moe.experts if self.dense and self.config.moe.experts else 1

    @property
    def adapters_run(self) -> int:
        """Weights of adapters, counted as often as devices of the model axis repeat them."""
        return self.adapters + (self.model - 1) * self.whole


def together(*parts: Work) -> Work:
    """The work of all parts; none is no work."""
    return Work(*(sum(getattr(part, name) for part in parts) for name in Work._fields))


def shape_of(config: TransformerConfig, adapter: adapt.AdapterConfig, dense: bool) -> Shape | None:
    """The model under an adapter on the mesh that is set; None where its products are not counted
    here (adapters other than LoRA of matrices of the layers)."""
    shape = Shape(config, dense=dense, model=axes.axis_size("ff"), seq=axes.axis_size("time"))
    if isinstance(adapter, adapt.FullConfig):
        return shape
    if not isinstance(adapter, lora.LoraConfig) or adapter.dora or adapter.whole:
        return None
    if {"embed", "unembed"} & {*adapter.targets}:
        return None
    infos = adapter_weights(config, adapter)
    whole = [info for info in infos if not set(info.axes.split()) & {"kv", "ff", "vocab"}]
    count, repeated = (sum(math.prod(info.shape) for info in part) for part in (infos, whole))
    return shape._replace(adapters=count, whole=repeated, learns=False)


def adapter_weights(config: TransformerConfig, adapter: lora.LoraConfig) -> list[params.ParamInfo]:
    """LoRA's matrices of all layers: inputs x rank and rank x outputs of every adapted weight."""
    declared: Any = adapter.declare(transformer.declare(config))
    return list(jax.tree.leaves(declared, is_leaf=params.is_info))


class _Layer(NamedTuple):
    """Weights that a token meets in one layer.

    own: all but routed experts'. routed: those, for the experts that a token uses. own_last,
    routed_last: of either what is in the layer's last product. whole: of `own`, what every device
    of the model axis multiplies. latents: of `own`, what makes keys and values of latents.
    """

    own: int
    routed: int
    own_last: int
    routed_last: int
    whole: int
    latents: int


def _attention(config: TransformerConfig, number: int) -> tuple[int, int, int]:
    """(weights of a layer's attention, `whole` and `latents` of them)."""
    d, h, heads = config.width, config.head_dim, config.heads
    if not config.mla.kv_rank:
        own = config_parts.heads(config, number)
        maps = (2 + config.attention_gate) * heads + (own.keys + own.values) * own.kv_heads
        return d * own.head_dim * maps, 0, 0
    latent = config.mla
    r, q, p, u = latent.kv_rank, latent.query_rank, latent.rope_dim, latent.value_dim
    query, behind = (q or d) * heads * (h + p), r * heads * (h + u)
    whole = d * (q + r + p)
    return whole + query + behind + heads * u * d, whole, behind


def _layer(config: TransformerConfig, sparse: bool, number: int) -> _Layer:
    d, moe, kind = config.width, config.moe, config.mixes(number)
    maps = {"delta": (rule.weights(config)[0], 0, 0), "conv": (4 * d * d, 0, 0)}
    attention, whole, behind = maps[kind] if kind else _attention(config, number)
    attention += 3 * d * config.layer_inputs
    ff = config_parts.inner(config, number)
    if not sparse:
        return _Layer(attention + 3 * d * ff, 0, d * ff, 0, whole, behind)
    used, router = moe.active * moe.ff, d * (moe.experts + moe.shared_gate)
    shared = ff if moe.beside else moe.shared_ff
    common = attention + 3 * d * shared + router
    return _Layer(common, 3 * d * used, d * shared, d * used, whole + router, behind)


def _layers(config: TransformerConfig) -> _Layer:
    """The sums over all layers."""
    parts = [
        (_layer(config, sparse, numbers[0]), len(numbers)) for sparse, numbers in config.stacks()
    ]
    return _Layer(*(sum(part[i] * n for part, n in parts) for i in range(6)))


def _pair(config: TransformerConfig, number: int) -> float:
    """FLOPs of a layer's scores and mixing for one pair of a query and a key."""
    if config.mla.kv_rank:
        own = config.head_dim + config.mla.rope_dim + config.mla.value_dim
        return 2.0 * config.heads * own
    return 4.0 * config.heads * config_parts.heads(config, number).head_dim


def _seen(config: TransformerConfig, length: int) -> float:
    """FLOPs of all layers for the pairs of one row that they see."""
    return sum(
        _pair(config, n) * visible(kind, length, config.window)
        for n, kind in enumerate(config.kinds())
    )


def visible(kind: str, length: int, window: int) -> int:
    """Pairs of a query and a key of one row that a kind of layer sees."""
    if kind in config_parts.MIXERS:
        return 0
    if kind == "sliding" and window < length:
        return length * window - window * (window - 1) // 2
    if kind == "chunked" and window < length:
        whole, rest = divmod(length, window)
        return whole * (window * (window + 1) // 2) + rest * (rest + 1) // 2
    return length * (length + 1) // 2


def body(shape: Shape, rows: int, length: int, *, trained: bool) -> Work:
    """Layers over whole rows: forward, and where they are trained backward.

    Backward is twice the forward pass: gradients of inputs and of weights. Frozen weights have
    none, so under adapters it is once for them and twice for the adapters and for attention.
    """
    config, per = shape.config, 2.0 * rows * length
    layer = _layers(config)
    scores = rows * sum(_pair(config, n) for n in _attending(config)) * length**2
    seen = rows * _seen(config, length)
    factor = (3 if shape.learns else 2) if trained else 1
    moved = 3 if trained else 1  # adapters, and attention between what they change
    useful = factor * per * (layer.own + layer.routed) + moved * (per * shape.adapters + seen)
    run = factor * per * _run(shape, layer) + moved * (per * shape.adapters_run + scores)
    again, pairs = _again(shape, layer) if trained else (0, 0.0)
    run += per * again + pairs * scores
    mixed = _rule(shape, rows, length, trained=trained)
    return Work(useful + mixed.useful, run + mixed.run, (moved + pairs) * scores)


def _attending(config: TransformerConfig) -> list[int]:
    """Numbers of the layers with attention."""
    return [n for n in range(config.layers) if not config.mixes(n)]


def _rule(shape: Shape, rows: int, length: int, *, trained: bool) -> Work:
    """The gated delta rule of all layers, whole on every device of the seq axis."""
    config, count = shape.config, rows * rule.layers(shape.config)
    once = count * rule.forward(config, length)
    useful = once + (count * rule.backward(config, length) if trained else 0.0)
    # Whatever a layer keeps for its gradient but everything, this is computed again.
    again = once if trained and config.remat not in ("auto", "none") else 0.0
    return Work(useful, shape.seq * (useful + again))


def _run(shape: Shape, layer: _Layer) -> int:
    """Weights that a token meets, counted as often as they are multiplied.

    Every device of the seq axis makes keys and values of all of a row's latents.
    """
    repeated = (shape.model - 1) * layer.whole + (shape.seq - 1) * layer.latents
    return layer.own + repeated + shape.crowd * layer.routed


def _again(shape: Shape, layer: _Layer) -> tuple[int, float]:
    """(weights, share of the pairs' products) that `remat` computes again."""
    config = shape.config
    if config.remat in ("auto", "none"):  # on accelerators "auto" is "none"
        return 0, 0.0
    # Of grouped queries all but "full" keep what was mixed, so that the scores alone are remade.
    scores = 1.0 if config.mla.kv_rank else 0.5
    # The last product of a layer is not needed for its gradient, unless a norm follows it.
    routed_last = 0 if config.post_norms else shape.crowd * layer.routed_last
    if config.remat == "dots":  # a product of runs of rows is not among what it keeps
        return shape.crowd * layer.routed - routed_last, scores
    own_last = 0 if config.post_norms else layer.own_last
    run = _run(shape, layer) + shape.adapters_run - own_last - routed_last
    run -= config.layers * config.width * config.layer_inputs  # made once, outside the layers
    if config.remat == "heads":
        return run - sum(_projections(config, n) for n in _attending(config)), scores
    return run, scores if config.remat == "attention" else 1.0


def _projections(config: TransformerConfig, number: int) -> int:
    """Weights of a layer that make queries, keys and values, where those are kept."""
    if config.mla.kv_rank:
        return 0
    own = config_parts.heads(config, number)
    queries = 2 * config.heads if config.attention_gate else config.heads
    return config.width * own.head_dim * (queries + (own.keys + own.values) * own.kv_heads)


def head(shape: Shape, rows: int, length: int, shards: tuple[int, int], *, trained: bool) -> Work:
    """Log-probabilities of whole rows; shards: of rows and of the vocabulary."""
    config, tokens = shape.config, rows * (length - 1)
    once = 2.0 * tokens * config.width * config.vocab_size
    if not trained:
        return Work(once, once)
    factor = 3 if shape.learns else 2
    return Work(factor * once, (factor + tiled(shape, rows, length, shards)) * once)


def tiled(shape: Shape, rows: int, length: int, shards: tuple[int, int]) -> bool:
    """Whether the logits of rows never exist at once; arguments as in `head`."""
    config = shape.config
    bytes_here = 4 * math.ceil(rows / shards[0]) * (config.vocab_size // shards[1]) * (length - 1)
    return bool(config.logit_tile and config.logit_tile < length - 1) or bytes_here > TILE


def generation(shape: Shape, rows: int, prompt: int, new: int, size: int = 1) -> Work:
    """Prefill and `new` steps over a cache of prompt + new slots.

    size: rows of a prompt, which is prefilled once for all of them. Devices of a seq axis do not
    share rows of one token: each does all of it.
    """
    copies, shape = shape.seq, shape._replace(seq=1)
    config, slots, read = shape.config, prompt + new, rows // size
    layers, per = _layers(config), 2.0 * (read * prompt + rows * new)
    unembed = 2.0 * (read + rows * new) * config.width * config.vocab_size
    seen = rows * _seen(config, slots) - (rows - read) * _seen(config, prompt)
    useful = per * (layers.own + layers.routed + shape.adapters) + unembed + seen
    scores, behind = (
        read * a + rows * new * b
        for a, b in zip(
            _cached_scores(config, prompt, slots), _cached_scores(config, 1, slots), strict=True
        )
    )
    outside = per * (_run(shape, layers) - layers.latents + shape.adapters_run)
    states = rule.layers(config) * (
        read * rule.forward(config, prompt) + rows * new * rule.forward(config, 1)
    )
    run = outside + unembed + scores + behind + states
    return Work(useful + states, copies * run, copies * scores)


def _cached_scores(config: TransformerConfig, queries: int, slots: int) -> tuple[float, float]:
    """FLOPs of all layers for one row over a cache: (of pairs, behind latents)."""
    pairs, attending = queries * slots, _attending(config)
    latents = 2.0 * sum(_attention(config, n)[2] for n in attending)
    scores = pairs * sum(_pair(config, n) for n in attending)
    if not config.mla.kv_rank:
        return scores, 0.0
    if mla.absorbs(config, queries, slots):
        absorbed = 2.0 * config.heads * (2 * config.mla.kv_rank + config.mla.rope_dim)
        return len(attending) * absorbed * pairs, latents * queries
    return scores, latents * slots


def parameters(config: TransformerConfig) -> int:
    """Elements of all weights, by the shape's own formula."""
    d, layers = config.width, config.layers
    total = (1 if config.tied else 2) * config.vocab_size * d + d
    total += 2 * (config.pre_norms + config.post_norms) * layers * d
    total += sum(_attention(config, n)[0] + _small(config, n) for n in _attending(config))
    if config.layer_inputs:
        table = config.vocab_size * layers + 1 + 3 * layers * d
        total += config.layer_inputs * table + layers * d
    total += layers * config.layer_scales
    total += rule.layers(config) * sum(rule.weights(config))
    convolved = 4 * d * d + d * config.conv.taps + 5 * d * config.conv.bias
    total += config.kinds().count("conv") * convolved
    for sparse, numbers in config.stacks():
        moe, n, ff = config.moe, len(numbers), config_parts.inner(config, numbers[0])
        if sparse:
            mlp = 3 * d * (moe.experts * moe.ff + moe.shared_ff) + d * moe.experts
            mlp += (moe.experts if moe.bias_correction else 0) + d * moe.shared_gate
            mlp += moe.experts * (1 + 2 * moe.ff + d) if moe.bias else 0
            mlp += 3 * d * ff + 4 * d + moe.experts if moe.beside else 0
        else:
            mlp = 3 * d * ff + ((2 * ff + d) if config.mlp_bias else 0)
        total += n * mlp
    return total


def _small(config: TransformerConfig, number: int) -> int:
    """Elements of a layer's biases, sinks and norms within attention."""
    d, latent = config.width, config.mla
    bias = d if config.out_bias else 0
    if latent.kv_rank:
        wide = latent.query_rank + latent.kv_rank
        return bias + wide + (wide + latent.rope_dim if config.out_bias else 0)
    own = config_parts.heads(config, number)
    queries = 2 * config.heads if config.attention_gate else config.heads
    shifted = queries + (own.keys + own.values) * own.kv_heads
    bias += own.head_dim * shifted if config.qkv_bias else 0
    bias += config.heads if config.sinks else 0
    scaled, whole = 1 + own.keys, config.heads + own.keys * own.kv_heads
    return bias + own.head_dim * {"scaled": scaled, "whole": whole}.get(config.qk_norm, 0)
