"""Log-probabilities straight from hidden states, a tile of time steps at a time.

This is the only path to log-probabilities of tokens; with top_k.py and tiled_divergence.py it is
all that sees a vocabulary axis, by tiles.py.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import shapes, struct
from alignjax.losses import tiles


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
    head = tiles.make_head(
        hidden, unembedding, temperature=temperature, softcap=softcap, scale=scale, tile=tile
    )
    return _token_stats(head, hidden, unembedding, targets)


def token_logprobs(
    hidden: jax.Array, unembedding: jax.Array, targets: jax.Array, **options: Any
) -> jax.Array:
    """[B, T] log-probability of each target in nats; options as in `token_stats`."""
    return token_stats(hidden, unembedding, targets, **options).logprob


def _is_target(head: tiles.Head, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """One-hot targets as a comparison: no gather along a vocabulary that may be in parts."""
    size = logits.shape[-1]
    tokens = jax.lax.broadcasted_iota(jnp.int32, (1, 1, size), 2) + head.layout.first(size)
    return tokens == targets[..., None]


def _top1(head: tiles.Head, logits: jax.Array) -> jax.Array:
    """[B, t]: the first of the most likely tokens."""
    size = logits.shape[-1]
    own, best = jnp.argmax(logits, axis=-1), jnp.max(logits, axis=-1)
    if not head.layout.vocab:
        return own
    leads = best == head.layout.max(best)
    number = jnp.where(leads, own + head.layout.first(size), jnp.iinfo(jnp.int32).max)
    return -head.layout.max(-number)


def _forward(
    head: tiles.Head, hidden: jax.Array, unembedding: jax.Array, targets: jax.Array
) -> Any:
    """TokenStats of this device's tokens."""
    matrix = head.layout.spread(unembedding)

    def one(part: tuple[jax.Array, jax.Array]) -> TokenStats:
        logits, _ = tiles.logits(head, part[0], matrix)
        logsumexp = tiles.logsumexp(head, logits)
        logp = logits - logsumexp[..., None]
        probs = jnp.exp(logp)
        hit = jnp.where(_is_target(head, logits, part[1]), logits, 0.0)
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

    return tiles.over_time(head.tile, one, (hidden, targets))


_BT: Any = "bt"  # the axes of every field
_STATS = TokenStats(logprob=_BT, entropy=_BT, logsumexp=_BT, sum_p2=_BT, mean_logit=_BT, top1=_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_stats(
    head: tiles.Head, hidden: jax.Array, unembedding: jax.Array, targets: jax.Array
) -> Any:
    run = head.layout.run(functools.partial(_forward, head), ("bth", "dv", "bt"), _STATS)
    return run(hidden, unembedding, targets)


def _token_stats_fwd(
    head: tiles.Head, hidden: jax.Array, unembedding: jax.Array, targets: jax.Array
) -> tuple[TokenStats, tuple[Any, ...]]:
    stats = _token_stats(head, hidden, unembedding, targets)
    return stats, (hidden, unembedding, targets, stats)


def _logit_cotangent(
    head: tiles.Head,
    logits: jax.Array,
    targets: jax.Array,
    stats: TokenStats,
    cotangent: TokenStats,
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
    head: tiles.Head, hidden: Any, unembedding: Any, targets: Any, stats: Any, cotangent: Any
) -> tuple[jax.Array, jax.Array]:
    """Gradients of this device's states, and of its part of the matrix from all tokens."""
    matrix = head.layout.spread(unembedding)

    def one(total: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
        states, ids, known, grads = part
        logits, slope = tiles.logits(head, states, matrix)
        raw = _logit_cotangent(head, logits, ids, known, grads) * slope
        by_hidden, by_matrix = tiles.products(head, raw, states, matrix)
        return total + by_matrix, by_hidden.astype(hidden.dtype)

    total = jnp.zeros_like(matrix, dtype=jnp.float32)
    tree = (hidden, targets, stats, cotangent)
    by_matrix, by_hidden = tiles.scan_time(head.tile, one, total, tree)
    return by_hidden, head.layout.gradient(by_matrix).astype(unembedding.dtype)


def _token_stats_bwd(
    head: tiles.Head, residuals: Any, cotangent: TokenStats
) -> tuple[jax.Array, jax.Array, None]:
    stats = residuals[-1]
    cotangent = struct.replace(cotangent, top1=jnp.zeros_like(stats.logprob))
    inputs = ("bth", "dv", "bt", _STATS, _STATS)
    run = head.layout.run(functools.partial(_backward, head), inputs, ("bth", "dv"))
    return *run(*residuals, cotangent), None


_token_stats.defvjp(_token_stats_fwd, _token_stats_bwd)
