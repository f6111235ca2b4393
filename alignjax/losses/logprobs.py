"""Log-probabilities straight from hidden states, a tile of time steps at a time.

This is the only path to log-probabilities and the only loss file that sees a vocabulary axis. The
logits of a whole sequence never exist: each tile's are made, reduced and dropped, and made again
for the gradient.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import shapes, struct

# fp32 bytes of logits that one tile may hold on one device.
_TILE_BYTES = 32 * 2**20


@struct.pytree
class TokenStats:
    """What is known of each target and of the distribution it was drawn from; all [B, T].

    logprob: log p(target), nats. entropy: of p, nats. logsumexp: of the final logits. sum_p2: sum
    of squared probabilities. mean_logit: mean final logit. top1: the most likely token.
    """

    logprob: Any
    entropy: Any
    logsumexp: Any
    sum_p2: Any
    mean_logit: Any
    top1: Any


@struct.pytree
class _Head:
    """How logits are made from hidden states: scale * h W, softcap, then temperature."""

    scale: float = struct.static(default=1.0)
    softcap: float = struct.static(default=0.0)
    temperature: float = struct.static(default=1.0)
    tile: int = struct.static(default=0)


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
    tile: int = 0,
) -> jax.Array:
    """[B, T] exact KL(p || q) of next-token distributions, summed over the vocabulary, in nats.

        KL = sum_v p_v (log p_v - log q_v), p from `hidden`, q from `other_hidden`

    For measuring, not for training: it has no memory-saving gradient. The two may differ in width.

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
    head = _Head(temperature=temperature, softcap=float(softcap), tile=tile)

    def one(states: tuple[jax.Array, jax.Array]) -> jax.Array:
        logp = jax.nn.log_softmax(_logits(head, states[0], unembedding)[0], axis=-1)
        logq = jax.nn.log_softmax(_logits(head, states[1], other_unembedding)[0], axis=-1)
        return jnp.sum(jnp.exp(logp) * (logp - logq), axis=-1)

    return _over_time(head.tile, one, (hidden, other_hidden))


def _choose_tile(hidden: jax.Array, unembedding: jax.Array) -> int:
    """The most time steps whose logits stay under `_TILE_BYTES` on one device."""
    rows, vocab = hidden.shape[0], unembedding.shape[1]
    mesh = jax.typeof(hidden).sharding.mesh
    if not mesh.empty:
        rows = jax.typeof(hidden).sharding.shard_shape(hidden.shape)[0]
        vocab = jax.typeof(unembedding).sharding.shard_shape(unembedding.shape)[1]
    return int(min(max(_TILE_BYTES // (4 * rows * vocab), 1), hidden.shape[1]))


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


def _is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """One-hot targets as a comparison: no gather along a vocabulary that may be sharded."""
    return jax.lax.broadcasted_iota(jnp.int32, (1, 1, logits.shape[-1]), 2) == targets[..., None]


def _forward(head: _Head, hidden: jax.Array, unembedding: jax.Array, targets: jax.Array) -> Any:
    def one(tiles: tuple[jax.Array, jax.Array]) -> TokenStats:
        logits, _ = _logits(head, tiles[0], unembedding)
        logsumexp = jax.nn.logsumexp(logits, axis=-1)
        logp = logits - logsumexp[..., None]
        probs = jnp.exp(logp)
        hit = jnp.sum(jnp.where(_is_target(logits, tiles[1]), logits, 0.0), axis=-1)
        return TokenStats(
            logprob=hit - logsumexp,
            # Not logsumexp - E z: that loses digits where the logits share a large offset.
            entropy=-jnp.sum(probs * logp, axis=-1),
            logsumexp=logsumexp,
            sum_p2=jnp.sum(probs * probs, axis=-1),
            mean_logit=jnp.mean(logits, axis=-1),
            top1=jnp.argmax(logits, axis=-1),
        )

    return _over_time(head.tile, one, (hidden, targets))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_stats(head: _Head, hidden: jax.Array, unembedding: jax.Array, targets: jax.Array) -> Any:
    return _forward(head, hidden, unembedding, targets)


def _token_stats_fwd(head: _Head, hidden: jax.Array, unembedding: jax.Array, targets: jax.Array):
    stats = _forward(head, hidden, unembedding, targets)
    return stats, (hidden, unembedding, targets, stats)


def _logit_cotangent(
    logits: jax.Array, targets: jax.Array, stats: TokenStats, cotangent: TokenStats
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
    hit = jnp.where(_is_target(logits, targets), cotangent.logprob[..., None], 0.0)
    return hit + probs * by_p + cotangent.mean_logit[..., None] / logits.shape[-1]


def _token_stats_bwd(head: _Head, residuals: Any, cotangent: TokenStats):
    hidden, unembedding, targets, stats = residuals
    cotangent = struct.replace(cotangent, top1=jnp.zeros_like(stats.logprob))
    layout = jax.typeof(unembedding).sharding
    layout = None if layout.mesh.empty else layout

    def one(total: jax.Array, tiles: Any) -> tuple[jax.Array, jax.Array]:
        states, ids, part, grads = tiles
        logits, slope = _logits(head, states, unembedding)
        raw = _logit_cotangent(logits, ids, part, grads) * slope
        by_hidden = jnp.einsum(
            "btv,dv->btd",
            raw,
            unembedding.astype(jnp.float32),
            out_sharding=None if layout is None else jax.typeof(states).sharding,
        )
        by_matrix = jnp.einsum("btd,btv->dv", states.astype(jnp.float32), raw, out_sharding=layout)
        return total + by_matrix, by_hidden.astype(hidden.dtype)

    total = jnp.zeros_like(unembedding, dtype=jnp.float32)
    tree = (hidden, targets, stats, cotangent)
    by_matrix, by_hidden = _scan_time(head.tile, one, total, tree)
    return by_hidden, by_matrix.astype(unembedding.dtype), None


_token_stats.defvjp(_token_stats_fwd, _token_stats_bwd)
