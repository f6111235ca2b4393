"""The divergence of two heads' next-token distributions, a tile of time steps at a time.

A student's states and matrix and a teacher's, of any two widths over one vocabulary, give a number
a token. Neither's logits of a whole sequence ever exist, in the loss or in its gradient.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import tiles

Heads = tuple[tiles.Head, tiles.Head]  # of the student, of the teacher


def token_divergence(
    hidden: jax.Array,
    unembedding: jax.Array,
    other_hidden: jax.Array,
    other_unembedding: jax.Array,
    *,
    beta: float = 1.0,
    temperature: float = 1.0,
    softcap: float = 0.0,
    other_softcap: float | None = None,
    tile: int = 0,
    mask: jax.Array | None = None,
) -> jax.Array:
    """[B, T] divergence of next-token distributions, summed over the vocabulary, in nats, fp32.

        beta = 1:  KL(p || q) = sum_v p_v (log p_v - log q_v)
        beta = 0:  KL(q || p)
        else:      beta KL(q || m) + (1 - beta) KL(p || m),  m = beta q + (1 - beta) p

    p is of `hidden`, the student; q of `other_hidden`, the teacher, into which no gradient flows.
    It is `losses.generalised_jsd` of log-probabilities that never exist.

    Args:
      hidden, other_hidden: [B, T, D] and [B, T, E], the states that predict each token.
      unembedding, other_unembedding: [D, V] and [E, V], sharded over V or not.
      beta: in [0, 1].
      temperature: > 0, divides the logits of both. softcap: >= 0, of the student, 0 is none;
        other_softcap: of the teacher, None is the student's.
      tile: time steps whose logits exist at once; 0 chooses by size.
      mask: [B, T], the tokens that count; None is all. Nothing is computed for the others, whose
        divergence is 0.

    Raises:
      ValueError: a shape or number is out of range.

    Reference: Agarwal et al. (2024, GKD), equation 1.
    """
    sizes = shapes.check("hidden", hidden, "B T D")
    sizes = shapes.check("unembedding", unembedding, "D V", sizes)
    sizes = shapes.check("other_hidden", other_hidden, "B T E", sizes)
    shapes.check("other_unembedding", other_unembedding, "E V", sizes)
    shapes.check_number("beta", beta, minimum=0, maximum=1)
    cap = softcap if other_softcap is None else other_softcap
    heads = tuple(
        tiles.make_head(hidden, unembedding, temperature=temperature, softcap=own, tile=tile)
        for own in (softcap, cap)
    )
    other = jax.lax.stop_gradient((other_hidden, other_unembedding))
    if mask is not None:
        shapes.check("mask", mask, "B T", {"B": sizes["B"], "T": sizes["T"]})
        mask = mask != 0
    return _divergence(heads, float(beta), hidden, unembedding, *other, mask)[0]


def _mixed(beta: float, logp: jax.Array, logq: jax.Array) -> jax.Array:
    """log m, m = beta q + (1 - beta) p."""
    return jnp.logaddexp(logq + jnp.log(beta), logp + jnp.log1p(-beta))


_INPUTS = ("bth", "dv", "bth", "dv")
_RESULTS = ("bt", "bt", "bt", "bt")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _divergence(heads: Heads, beta: float, *arrays: Any) -> Any:
    """(divergence, KL of the student to the mixture or the teacher, both logsumexps), all [B, T].

    The last three are what the gradient needs of the whole vocabulary.
    """
    layout = heads[0].layout

    def run(states: Any, matrix: Any, other_states: Any, other_matrix: Any, mask: Any) -> Any:
        matrices = layout.spread(matrix), layout.spread(other_matrix)

        def one(part: Any) -> Any:
            logits = [
                tiles.logits(h, x, w)[0] for h, x, w in zip(heads, part, matrices, strict=True)
            ]
            sums = [tiles.logsumexp(h, z) for h, z in zip(heads, logits, strict=True)]
            logp, logq = (z - own[..., None] for z, own in zip(logits, sums, strict=True))
            pole = logq if beta in (0.0, 1.0) else _mixed(beta, logp, logq)
            of_p = jnp.sum(jnp.exp(logp) * (logp - pole), axis=-1)
            of_q = jnp.sum(jnp.exp(logq) * (logq - (logp if beta == 0.0 else pole)), axis=-1)
            of_p, of_q = layout.sum([of_p, of_q])
            total = {0.0: of_q, 1.0: of_p}.get(beta, beta * of_q + (1.0 - beta) * of_p)
            return total, of_p, *sums

        return tiles.over_tokens(heads[0], one, (states, other_states), mask)

    return layout.run(run, _axes(arrays[-1]), _RESULTS)(*arrays)


def _axes(mask: Any) -> tuple[Any, ...]:
    return (*_INPUTS, None if mask is None else "bt")


def _forward(heads: Heads, beta: float, *arrays: Any) -> tuple[Any, Any]:
    results = _divergence(heads, beta, *arrays)
    return results, (*arrays, *results[1:])


def _slope(beta: float, logp: jax.Array, logq: jax.Array, of_p: jax.Array) -> jax.Array:
    """d divergence / d z [n, V] of the student's final logits z.

    beta = 0: p - q. Else, with m the mixture (q at beta = 1): (1 - beta, or 1) p (log p - log m -
    KL(p || m)); the terms of m's own dependence on p cancel.
    """
    if beta == 0.0:
        return jnp.exp(logp) - jnp.exp(logq)
    pole = logq if beta == 1.0 else _mixed(beta, logp, logq)
    weight = 1.0 if beta == 1.0 else 1.0 - beta
    return weight * jnp.exp(logp) * (logp - pole - of_p[..., None])


def _backward(heads: Heads, beta: float, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    layout = heads[0].layout

    def run(*arrays: Any) -> tuple[jax.Array, jax.Array]:
        states, stored, other_states, other_stored, mask, *known = arrays
        matrix, other_matrix = layout.spread(stored), layout.spread(other_stored)

        def one(total: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
            own, other, of_p, own_sum, other_sum, given = part
            logits, bend = tiles.logits(heads[0], own, matrix)
            others, _ = tiles.logits(heads[1], other, other_matrix)
            logp, logq = logits - own_sum[..., None], others - other_sum[..., None]
            raw = _slope(beta, logp, logq, of_p) * given[..., None] * bend
            by_hidden, by_matrix = tiles.products(heads[0], raw, own, matrix)
            return total + by_matrix, by_hidden.astype(states.dtype)

        total = jnp.zeros_like(matrix, dtype=jnp.float32)
        parts = (states, other_states, *known)
        by_matrix, by_hidden = tiles.scan_tokens(heads[0], one, total, parts, mask)
        return by_hidden, layout.gradient(by_matrix).astype(stored.dtype)

    given = cotangents[0]
    inputs = (*_axes(residuals[4]), *_RESULTS[1:], "bt")
    found = layout.run(run, inputs, ("bth", "dv"))(*residuals, given)
    return *found, None, None, None


_divergence.defvjp(_forward, _backward)
