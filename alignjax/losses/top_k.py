"""A few entries of a vocabulary and one for all the rest: log-probabilities in tiles.

They stand in for a teacher's distribution where that is too large to keep: any divergence of
`distill.py` can be taken of the K + 1 entries. Logits come in tiles, as for `token_logprobs`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import tiles


def top_tokens(hidden: jax.Array, unembedding: jax.Array, count: int, **options: Any) -> jax.Array:
    """[B, T, K]: the most likely next tokens in falling order, of equal ones the lower first.

    Args:
      hidden: [B, T, D], the state that predicts each token. unembedding: [D, V], sharded or not.
      count: K, below V, and at most the tokens of one device's part.
      options: temperature, softcap, scale, tile, as for `token_stats`.

    Raises:
      ValueError: a shape or number is out of range.
    """
    sizes = shapes.check("hidden", hidden, "B T D")
    shapes.check("unembedding", unembedding, "D V", sizes)
    head = tiles.make_head(hidden, unembedding, **options)
    where = jax.typeof(unembedding).sharding
    shape = unembedding.shape if where.mesh.empty else where.shard_shape(unembedding.shape)
    most = min(shape[1], unembedding.shape[1] - 1)
    shapes.check_number("count", count, minimum=1, maximum=most)
    layout = head.layout

    def run(states: Any, matrix: Any) -> jax.Array:
        matrix = layout.spread(matrix)

        def one(part: Any) -> jax.Array:
            logits, _ = tiles.logits(head, part, matrix)
            best, tokens = jax.lax.top_k(logits, count)
            tokens = tokens + layout.first(logits.shape[-1])
            if layout.vocab:  # the best of the parts' best, which come in the tokens' order
                best, tokens = (
                    jax.lax.all_gather(x, layout.vocab, axis=2, tiled=True) for x in (best, tokens)
                )
                tokens = jnp.take_along_axis(tokens, jax.lax.top_k(best, count)[1], axis=-1)
            return tokens

        return tiles.over_time(head.tile, one, states)

    return layout.run(run, ("bth", "dv"), "bth")(hidden, unembedding)


def logprobs_with_tail(
    hidden: jax.Array, unembedding: jax.Array, tokens: jax.Array, **options: Any
) -> jax.Array:
    """[B, T, K + 1]: log-probabilities of K tokens, and of all others together, nats, fp32.

    The last entry is log of the sum of the others' probabilities, computed from their own logits:
    it keeps its digits, and its gradient, where the K hold nearly everything.

    Args:
      hidden, unembedding, options: as for `top_tokens`; differentiable in both arrays, with a
        gradient that recomputes the tiles.
      tokens: [B, T, K] int, K different ones at each place.

    Raises:
      ValueError: a shape or number is out of range.
    """
    sizes = shapes.check("hidden", hidden, "B T D")
    shapes.check("unembedding", unembedding, "D V", sizes)
    shapes.check("tokens", tokens, "B T K", {"B": sizes["B"], "T": sizes["T"]})
    head = tiles.make_head(hidden, unembedding, **options)
    return _logprobs(head, hidden, unembedding, tokens)[0]


def _places(head: tiles.Head, tokens: jax.Array, size: int) -> tuple[Any, jax.Array]:
    """(index [B, t, K] into this device's logits, which of the tokens are there)."""
    own = tokens - head.layout.first(size)
    there = (own >= 0) & (own < size)
    row, time = (jnp.arange(n) for n in tokens.shape[:2])
    return (row[:, None, None], time[None, :, None], jnp.where(there, own, 0)), there


def _without(logits: jax.Array, at: Any, there: jax.Array) -> jax.Array:
    """The logits with those of the K at -inf; what stands for another device's token is left."""
    return logits.at[at].min(jnp.where(there, -jnp.inf, jnp.inf))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs(head: tiles.Head, *arrays: jax.Array) -> Any:
    """(log-probabilities [B, T, K + 1], logsumexp [B, T])."""
    layout = head.layout

    def run(states: Any, matrix: Any, tokens: Any) -> Any:
        matrix = layout.spread(matrix)

        def one(part: Any) -> Any:
            logits, _ = tiles.logits(head, part[0], matrix)
            at, there = _places(head, part[1], logits.shape[-1])
            own = layout.sum(jnp.where(there, logits[at], 0.0))
            total = tiles.logsumexp(head, logits)
            rest = tiles.logsumexp(head, _without(logits, at, there))
            return jnp.concatenate([own, rest[..., None]], axis=-1) - total[..., None], total

        return tiles.over_time(head.tile, one, (states, tokens))

    return layout.run(run, ("bth", "dv", "bth"), ("bth", "bt"))(*arrays)


def _forward(head: tiles.Head, *arrays: jax.Array) -> tuple[Any, Any]:
    results = _logprobs(head, *arrays)
    return results, (*arrays, *results)


def _backward(head: tiles.Head, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    """d log p_k / d z = onehot(k) - p;  d log p_rest / d z = p / p_rest outside the K, - p."""
    layout = head.layout

    def run(states: Any, stored: Any, tokens: Any, found: Any, sums: Any, given: Any) -> Any:
        matrix = layout.spread(stored)

        def one(total: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
            own, ids, logprobs, logsumexp, slopes = part
            logits, bend = tiles.logits(head, own, matrix)
            at, there = _places(head, ids, logits.shape[-1])
            logp = logits - logsumexp[..., None]
            rest = _without(logp, at, there) - logprobs[..., -1:]
            by_logit = jnp.exp(rest) * slopes[..., -1:]
            by_logit = by_logit - jnp.exp(logp) * jnp.sum(slopes, axis=-1, keepdims=True)
            by_logit = by_logit.at[at].add(jnp.where(there, slopes[..., :-1], 0.0))
            by_hidden, by_matrix = tiles.products(head, by_logit * bend, own, matrix)
            return total + by_matrix, by_hidden.astype(states.dtype)

        total = jnp.zeros_like(matrix, dtype=jnp.float32)
        by_matrix, by_hidden = tiles.scan_time(
            head.tile, one, total, (states, tokens, found, sums, given)
        )
        return by_hidden, layout.gradient(by_matrix).astype(stored.dtype)

    inputs = ("bth", "dv", "bth", "bth", "bt", "bth")
    return *layout.run(run, inputs, ("bth", "dv"))(*residuals, cotangents[0]), None


_logprobs.defvjp(_forward, _backward)
