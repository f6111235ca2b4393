"""Log-probabilities straight from hidden states, a tile of time steps at a time.

This is the only path to log-probabilities and the only loss file that sees a vocabulary axis. The
logits of a whole sequence never exist: each tile's are computed, reduced and dropped, and
recomputed for the gradient.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from alignjax.core import shapes, struct

# fp32 bytes of logits that one tile may hold on one device.
_TILE_BYTES = 32 * 2**20


@struct.pytree
class TokenStats:
    """Statistics of each target and of the next-token distribution; all [B, T].

    logprob: log p(target), nats. entropy: of p, nats. logsumexp: of the final logits. sum_p2: sum
    of squared probabilities. mean_logit: mean final logit. top1: the most likely token.
    """

    logprob: jax.Array
    entropy: jax.Array
    logsumexp: jax.Array
    sum_p2: jax.Array
    mean_logit: jax.Array
    top1: jax.Array


class _Layout(NamedTuple):
    """Mesh axes that share the rows, the times, the width of the stored matrix, the vocabulary."""

    rows: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    width: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ()

    def spread(self, x: jax.Array) -> jax.Array:
        """The matrix [D, V] with all of its width, from its parts."""
        return jax.lax.all_gather(x, self.width, axis=0, tiled=True) if self.width else x

    def gradient(self, x: jax.Array) -> jax.Array:
        """The matrix's gradient in its stored layout, from what each device's tokens give.

        libtpu 0.0.51 ends with an internal error where it may move this sum out of the loop over
        micro-batches; behind a barrier it does not try.
        """
        if self.width:
            x = jax.lax.psum_scatter(x, self.width, scatter_dimension=0, tiled=True)
        rest = tuple(a for a in (*self.rows, *self.times) if a not in self.width)
        return jax.lax.optimization_barrier(jax.lax.psum(x, rest) if rest else x)

    def sum(self, x: Any) -> Any:
        """A sum over the whole vocabulary, from its parts'."""
        return jax.lax.psum(x, self.vocab) if self.vocab else x

    @property
    def parts(self) -> int:
        """Devices that share the vocabulary."""
        return jax.lax.axis_size(self.vocab) if self.vocab else 1

    def max(self, x: jax.Array) -> jax.Array:
        return jax.lax.pmax(x, self.vocab) if self.vocab else x

    def first(self, size: int) -> Any:
        """The number of this device's first token of the vocabulary, of `size` tokens each."""
        return jax.lax.axis_index(self.vocab) * size if self.vocab else 0

    def run(self, f: Callable[..., Any], inputs: Sequence[Any], outputs: Any) -> Any:
        """`f` on every device's own part; arrays are named by the letters of their axes."""
        if self == _Layout():
            return f
        axes = {"b": self.rows, "t": self.times, "d": self.width, "v": self.vocab, "h": ()}
        where = jax.tree.map(
            lambda names: PartitionSpec(*(axes[n] or None for n in names)), (inputs, outputs)
        )

        def call(*arrays: Any) -> Any:
            arrays = jax.tree.map(jax.sharding.reshard, arrays, tuple(where[0]))
            mapped = jax.shard_map(f, in_specs=tuple(where[0]), out_specs=where[1], check_vma=False)
            return mapped(*arrays)

        return call


def _names(entry: Any) -> tuple[str, ...]:
    """A PartitionSpec's entry as mesh axes."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _layout_of(hidden: jax.Array, unembedding: jax.Array) -> _Layout:
    """How the mesh shares the work; nothing without a mesh of explicit axes."""
    states, matrix = (jax.typeof(x).sharding for x in (hidden, unembedding))
    if states.mesh.empty or not states.mesh.are_all_axes_explicit:
        return _Layout()
    rows, times = (_names(entry) for entry in states.spec[:2])
    width, vocab = (_names(entry) for entry in matrix.spec)
    # Parts of the width can come and go only between devices that hold different tokens.
    width = tuple(a for a in width if a in (*rows, *times))
    return _Layout(rows, times, width, vocab)


@struct.pytree
class _Head:
    """How logits are computed from hidden states: scale * h W, softcap, then temperature."""

    scale: float = struct.static(default=1.0)
    softcap: float = struct.static(default=0.0)
    temperature: float = struct.static(default=1.0)
    tile: int = struct.static(default=0)
    layout: _Layout = struct.static(default=_Layout())


def token_stats(
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    *,
    temperature: float = 1.0,
    softcap: float = 0.0,
    scale: float = 1.0,
    tile: int = 0,
) -> TokenStats:
    """Log-probability of each target and the moments of its distribution, in fp32.

        u = scale * hidden @ unembedding;  z = softcap * tanh(u / softcap) / temperature
        logprob = z[target] - logsumexp(z);  entropy = -sum_v p_v log p_v

    Args:
      hidden: [B, T, D], the state that predicts each target.
      unembedding: [D, V], sharded over V or not.
      targets: [B, T] int.
      temperature: > 0, divides the logits. softcap: >= 0, 0 is none. scale: of the raw logits.
      tile: time steps whose logits exist at once; 0 chooses by size.

    Returns:
      TokenStats, each [B, T]; differentiable in hidden and unembedding (top1 is not).

    Raises:
      ValueError: a shape or number is out of range.
    """
    sizes = shapes.check("hidden", hidden, "B T D")
    shapes.check("unembedding", unembedding, "D V", sizes)
    shapes.check("targets", targets, "B T", {"B": sizes["B"], "T": sizes["T"]})
    shapes.check_number("tile", tile, minimum=0)
    head = _Head(
        scale=float(shapes.check_number("scale", scale, above=0)),
        softcap=float(shapes.check_number("softcap", softcap, minimum=0)),
        temperature=float(shapes.check_number("temperature", temperature, above=0)),
        tile=tile or _choose_tile(hidden, unembedding),
        layout=_layout_of(hidden, unembedding),
    )
    return _token_stats(head, hidden, unembedding, targets)


def token_logprobs(
    hidden: jax.Array, unembedding: jax.Array, targets: jax.Array, **options: Any
) -> jax.Array:
    """[B, T] log-probability of each target in nats; options as in `token_stats`."""
    return token_stats(hidden, unembedding, targets, **options).logprob


def token_divergence(
    hidden: jax.Array,
    unembedding: jax.Array,
    other_hidden: jax.Array,
    other_unembedding: jax.Array,
    *,
    temperature: float = 1.0,
    softcap: float = 0.0,
    other_softcap: float | None = None,
    tile: int = 0,
) -> jax.Array:
    """[B, T] exact KL(p || q) of next-token distributions, summed over the vocabulary, in nats.

        KL = sum_v p_v (log p_v - log q_v), p from `hidden`, q from `other_hidden`

    For measuring, not for training: it has no memory-saving gradient. The two may differ in width
    and in their soft caps; other_softcap None is that of p.

    Raises:
      ValueError: a shape or number is out of range.
    """
    sizes = shapes.check("hidden", hidden, "B T D")
    sizes = shapes.check("unembedding", unembedding, "D V", sizes)
    sizes = shapes.check("other_hidden", other_hidden, "B T E", sizes)
    shapes.check("other_unembedding", other_unembedding, "E V", sizes)
    shapes.check_number("temperature", temperature, above=0)
    shapes.check_number("softcap", softcap, minimum=0)
    shapes.check_number("tile", tile, minimum=0)
    tile = tile or _choose_tile(hidden, unembedding)
    layout = _layout_of(hidden, unembedding)
    other_softcap = softcap if other_softcap is None else other_softcap
    head, other_head = (
        _Head(temperature=temperature, softcap=float(cap), tile=tile, layout=layout)
        for cap in (softcap, other_softcap)
    )

    def run(states: Any, matrix: Any, other_states: Any, other_matrix: Any) -> jax.Array:
        matrix, other_matrix = layout.spread(matrix), layout.spread(other_matrix)

        def one(tiles: tuple[jax.Array, jax.Array]) -> jax.Array:
            logits = _logits(head, tiles[0], matrix)[0]
            others = _logits(other_head, tiles[1], other_matrix)[0]
            logp = logits - _logsumexp(head, logits)[..., None]
            logq = others - _logsumexp(head, others)[..., None]
            return layout.sum(jnp.sum(jnp.exp(logp) * (logp - logq), axis=-1))

        return _over_time(head.tile, one, (states, other_states))

    divergence = layout.run(run, ("bth", "dv", "bth", "dv"), "bt")
    return divergence(hidden, unembedding, other_hidden, other_unembedding)


def _choose_tile(hidden: jax.Array, unembedding: jax.Array) -> int:
    """The most time steps whose logits stay under `_TILE_BYTES` on one device."""
    (rows, length), vocab = hidden.shape[:2], unembedding.shape[1]
    if not jax.typeof(hidden).sharding.mesh.empty:
        rows, length = jax.typeof(hidden).sharding.shard_shape(hidden.shape)[:2]
        vocab = jax.typeof(unembedding).sharding.shard_shape(unembedding.shape)[1]
    return int(min(max(_TILE_BYTES // (4 * rows * vocab), 1), length))


def _scan_time(tile: int, fn: Any, carry: Any, tree: Any) -> tuple[Any, Any]:
    """(carry, results in order) of fn(carry, tile) over tiles [B, tile, ...] of leaves [B, T, ...].

    The last tile is padded with zeros; results at the padding are cut off, and what fn adds to the
    carry there must be zero (cotangents are).
    """
    length = jax.tree.leaves(tree)[0].shape[1]
    if tile >= length:
        return fn(carry, tree)
    count = -(-length // tile)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, count * tile - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, tile, *x.shape[2:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], count * tile, *x.shape[3:])[:, :length]

    carry, tiles = jax.lax.scan(fn, carry, jax.tree.map(cut, tree))
    return carry, jax.tree.map(join, tiles)


def _over_time(tile: int, fn: Any, tree: Any) -> Any:
    """fn applied tile by tile, results in order."""
    return _scan_time(tile, lambda _, part: (None, fn(part)), None, tree)[1]


def _logits(head: _Head, hidden: jax.Array, unembedding: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(final logits, their derivative by the raw product), fp32 [B, t, V]."""
    raw = jnp.einsum("btd,dv->btv", hidden, unembedding, preferred_element_type=jnp.float32)
    slope = jnp.full((), head.scale / head.temperature, jnp.float32)
    if head.softcap:
        bent = jnp.tanh(raw * (head.scale / head.softcap))
        return bent * (head.softcap / head.temperature), slope * (1 - bent * bent)
    return raw * slope, slope


def _logsumexp(head: _Head, logits: jax.Array) -> jax.Array:
    """[B, t] over the whole vocabulary."""
    largest = jax.lax.stop_gradient(head.layout.max(jnp.max(logits, axis=-1)))
    total = head.layout.sum(jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1))
    return largest + jnp.log(total)


def _is_target(head: _Head, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """One-hot targets as a comparison: no gather along a vocabulary that may be in parts."""
    size = logits.shape[-1]
    tokens = jax.lax.broadcasted_iota(jnp.int32, (1, 1, size), 2) + head.layout.first(size)
    return tokens == targets[..., None]


def _top1(head: _Head, logits: jax.Array) -> jax.Array:
    """[B, t]: the first of the most likely tokens."""
    size = logits.shape[-1]
    own, best = jnp.argmax(logits, axis=-1), jnp.max(logits, axis=-1)
    if not head.layout.vocab:
        return own
    leads = best == head.layout.max(best)
    number = jnp.where(leads, own + head.layout.first(size), jnp.iinfo(jnp.int32).max)
    return -head.layout.max(-number)


def _forward(head: _Head, hidden: jax.Array, unembedding: jax.Array, targets: jax.Array) -> Any:
    """TokenStats of this device's tokens."""
    matrix = head.layout.spread(unembedding)

    def one(tiles: tuple[jax.Array, jax.Array]) -> TokenStats:
        logits, _ = _logits(head, tiles[0], matrix)
        logsumexp = _logsumexp(head, logits)
        logp = logits - logsumexp[..., None]
        probs = jnp.exp(logp)
        hit = jnp.where(_is_target(head, logits, tiles[1]), logits, 0.0)
        # Not logsumexp - E z as the entropy: that loses digits where logits share a large offset.
        parts = (hit, -probs * logp, probs * probs, logits)
        hit, entropy, sum_p2, total = head.layout.sum([jnp.sum(x, axis=-1) for x in parts])
        return TokenStats(
            logprob=hit - logsumexp,
            entropy=entropy,
            logsumexp=logsumexp,
            sum_p2=sum_p2,
            mean_logit=total / (logits.shape[-1] * head.layout.parts),
            top1=_top1(head, logits),
        )

    return _over_time(head.tile, one, (hidden, targets))


_BT: Any = "bt"  # the axes of every field
_STATS = TokenStats(logprob=_BT, entropy=_BT, logsumexp=_BT, sum_p2=_BT, mean_logit=_BT, top1=_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_stats(head: _Head, hidden: jax.Array, unembedding: jax.Array, targets: jax.Array) -> Any:
    run = head.layout.run(functools.partial(_forward, head), ("bth", "dv", "bt"), _STATS)
    return run(hidden, unembedding, targets)


def _token_stats_fwd(
    head: _Head, hidden: jax.Array, unembedding: jax.Array, targets: jax.Array
) -> tuple[TokenStats, tuple[Any, ...]]:
    stats = _token_stats(head, hidden, unembedding, targets)
    return stats, (hidden, unembedding, targets, stats)


def _logit_cotangent(
    head: _Head, logits: jax.Array, targets: jax.Array, stats: TokenStats, cotangent: TokenStats
) -> jax.Array:
    """Cotangent of the final logits z [B, t, V]. With p = softmax(z):

    d logprob = onehot - p;  d logsumexp = p;  d entropy = -p (log p + H)
    d sum_p2 = 2 p (p - sum_p2);  d mean_logit = 1 / V
    """
    logp = logits - stats.logsumexp[..., None]
    probs = jnp.exp(logp)
    by_p = (
        (cotangent.logsumexp - cotangent.logprob)[..., None]
        - cotangent.entropy[..., None] * (logp + stats.entropy[..., None])
        + 2 * cotangent.sum_p2[..., None] * (probs - stats.sum_p2[..., None])
    )
    hit = jnp.where(_is_target(head, logits, targets), cotangent.logprob[..., None], 0.0)
    size = logits.shape[-1] * head.layout.parts
    return hit + probs * by_p + cotangent.mean_logit[..., None] / size


def _backward(
    head: _Head, hidden: Any, unembedding: Any, targets: Any, stats: Any, cotangent: Any
) -> tuple[jax.Array, jax.Array]:
    """Gradients of this device's states, and of its part of the matrix from all tokens."""
    matrix = head.layout.spread(unembedding)

    def one(total: jax.Array, tiles: Any) -> tuple[jax.Array, jax.Array]:
        states, ids, part, grads = tiles
        logits, slope = _logits(head, states, matrix)
        raw = _logit_cotangent(head, logits, ids, part, grads) * slope
        raw = raw.astype(states.dtype)  # products of the dtype that the forward pass multiplies
        wide = {"preferred_element_type": jnp.float32}
        by_hidden = jnp.einsum("btv,dv->btd", raw, matrix, **wide)
        by_matrix = jnp.einsum("btd,btv->dv", states, raw, **wide)
        return total + by_matrix, head.layout.sum(by_hidden).astype(hidden.dtype)

    total = jnp.zeros_like(matrix, dtype=jnp.float32)
    tree = (hidden, targets, stats, cotangent)
    by_matrix, by_hidden = _scan_time(head.tile, one, total, tree)
    return by_hidden, head.layout.gradient(by_matrix).astype(unembedding.dtype)


def _token_stats_bwd(
    head: _Head, residuals: Any, cotangent: TokenStats
) -> tuple[jax.Array, jax.Array, None]:
    stats = residuals[-1]
    cotangent = struct.replace(cotangent, top1=jnp.zeros_like(stats.logprob))
    inputs = ("bth", "dv", "bt", _STATS, _STATS)
    run = head.layout.run(functools.partial(_backward, head), inputs, ("bth", "dv"))
    return *run(*residuals, cotangent), None


_token_stats.defvjp(_token_stats_fwd, _token_stats_bwd)
