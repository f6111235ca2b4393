"""Log-probabilities straight from hidden states, a tile of time steps at a time.

This is the only path to log-probabilities of tokens; with top_k.py and tiled_divergence.py it is
all that sees a vocabulary axis, by tiles.py.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import shapes, struct
from alignjax.losses import tiles


@struct.pytree
class TokenStats:
    """Statistics of each target and of the next-token distribution; all [B, T].

    logprob: log p(target), nats. entropy: of p, nats. logsumexp: of the final logits. sum_p2: sum
    of squared probabilities. mean_logit: mean final logit. top1: the most likely token. Those that
    were not asked for are None.
    """

    logprob: jax.Array
    entropy: jax.Array
    logsumexp: jax.Array
    sum_p2: jax.Array
    mean_logit: jax.Array
    top1: jax.Array


FIELDS = tuple(field.name for field in dataclasses.fields(TokenStats))


def token_stats(
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    *,
    temperature: float = 1.0,
    softcap: float = 0.0,
    scale: float = 1.0,
    tile: int = 0,
    want: Sequence[str] = FIELDS,
    mask: jax.Array | None = None,
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
      want: fields of TokenStats; only these are computed, forward and backward.
      mask: [B, T], the targets that count; None is all. Only their logits are computed: the work
        is that of the counted tokens, in tiles. Statistics of the others are 0, without gradient.

    Returns:
      TokenStats, each [B, T], None where not wanted; differentiable in hidden and unembedding
      (top1 is not). A field into which no gradient flows costs the backward pass nothing.

    Raises:
      ValueError: a shape, name or number is out of range.
    """
    sizes = shapes.check("hidden", hidden, "B T D")
    shapes.check("unembedding", unembedding, "D V", sizes)
    shapes.check("targets", targets, "B T", {"B": sizes["B"], "T": sizes["T"]})
    if mask is not None:
        shapes.check("mask", mask, "B T", {"B": sizes["B"], "T": sizes["T"]})
        mask = mask != 0
    for name in want:
        shapes.check_choice("want", name, FIELDS)
    head = tiles.make_head(
        hidden, unembedding, temperature=temperature, softcap=softcap, scale=scale, tile=tile
    )
    names = tuple(name for name in FIELDS if name in want)
    found = _token_stats(head, names, hidden, unembedding, targets, mask)
    # Typed as arrays, which those who read a field have asked for; the others are None.
    return TokenStats(**{n: found.get(n) for n in FIELDS})  # type: ignore[arg-type]


def token_logprobs(
    hidden: jax.Array, unembedding: jax.Array, targets: jax.Array, **options: Any
) -> jax.Array:
    """[B, T] log-probability of each target in nats; options as in `token_stats`."""
    return token_stats(hidden, unembedding, targets, want=("logprob",), **options).logprob


def _is_target(head: tiles.Head, logits: jax.Array, targets: jax.Array) -> jax.Array:
    """One-hot targets as a comparison: no gather along a vocabulary that may be in parts."""
    size = logits.shape[-1]
    tokens = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1) + head.layout.first(size)
    return tokens == targets[..., None]


def _top1(head: tiles.Head, logits: jax.Array, largest: jax.Array) -> jax.Array:
    """[n]: the first of the most likely tokens; largest: the logit of these."""
    size = logits.shape[-1]
    own = jnp.argmax(logits, axis=-1)
    if not head.layout.vocab:
        return own
    leads = jnp.max(logits, axis=-1) == largest
    number = jnp.where(leads, own + head.layout.first(size), jnp.iinfo(jnp.int32).max)
    return -head.layout.max(-number)


Stats = dict[str, jax.Array]  # fields of TokenStats by name


def _stats(head: tiles.Head, want: Sequence[str], logits: jax.Array, targets: jax.Array) -> Stats:
    """The wanted statistics [n], and logsumexp, of logits [n, V] of this device's vocabulary.

    All but top1 are sums over the vocabulary of what comes from s = z - max z and e^s:
    with S = sum e^s, logsumexp = max z + log S, entropy = log S - sum s e^s / S,
    sum_p2 = sum e^2s / S^2.
    """
    largest = head.layout.max(jnp.max(logits, axis=-1))
    # Of s, not of z: an offset that all logits share would take the entropy's digits.
    shifted = logits - largest[..., None]
    powers = jnp.exp(shifted)
    terms = {"powers": powers}
    if "logprob" in want:
        terms["hit"] = jnp.where(_is_target(head, logits, targets), shifted, 0.0)
    if "entropy" in want:
        terms["slope"] = shifted * powers
    if "sum_p2" in want:
        terms["squares"] = powers * powers
    if "mean_logit" in want:
        terms["logits"] = logits
    sums = head.layout.sum({name: jnp.sum(x, axis=-1) for name, x in terms.items()})
    log = jnp.log(sums["powers"])
    found = {"logsumexp": largest + log}
    if "logprob" in want:
        found["logprob"] = sums["hit"] - log
    if "entropy" in want:
        found["entropy"] = log - sums["slope"] / sums["powers"]
    if "sum_p2" in want:
        found["sum_p2"] = sums["squares"] / sums["powers"] ** 2
    if "mean_logit" in want:
        found["mean_logit"] = sums["logits"] / (logits.shape[-1] * head.layout.parts)
    if "top1" in want:
        found["top1"] = _top1(head, logits, largest)
    return found


def _forward(head: tiles.Head, want: Sequence[str], *arrays: Any) -> Stats:
    """The statistics of this device's tokens."""
    hidden, unembedding, targets, mask = arrays
    matrix = head.layout.spread(unembedding)

    def one(part: tuple[jax.Array, jax.Array]) -> Stats:
        return _stats(head, want, tiles.logits(head, part[0], matrix)[0], part[1])

    return tiles.over_tokens(head, one, (hidden, targets), mask)


_INPUTS = ("bth", "dv", "bt")


def _axes(mask: Any) -> str | None:
    return None if mask is None else "bt"


def _run(head: tiles.Head, want: Sequence[str], *arrays: Any) -> Stats:
    """The wanted statistics and logsumexp."""
    found = dict.fromkeys((*want, "logsumexp"), "bt")
    run = functools.partial(_forward, head, want)
    return head.layout.run(run, (*_INPUTS, _axes(arrays[-1])), found)(*arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _token_stats(head: tiles.Head, want: tuple[str, ...], *arrays: Any) -> Stats:
    """Arrays: hidden, unembedding, targets, mask or None."""
    found = _run(head, want, *arrays)
    return {name: found[name] for name in want}


def _token_stats_fwd(
    head: tiles.Head, want: tuple[str, ...], *arrays: Any
) -> tuple[Stats, tuple[Any, ...]]:
    values = tuple(None if x is None else x.value for x in arrays)
    found = _run(head, want, *values)
    kept = {name: x for name, x in found.items() if name in ("logsumexp", "entropy", "sum_p2")}
    return {name: found[name] for name in want}, (*values, kept)


def _logit_cotangent(
    head: tiles.Head, logits: jax.Array, targets: jax.Array, stats: Stats, cotangent: Stats
) -> jax.Array:
    """Cotangent of the final logits z [n, V]. With p = softmax(z):

    d logprob = onehot - p;  d logsumexp = p;  d entropy = -p (log p + H)
    d sum_p2 = 2 p (p - sum_p2);  d mean_logit = 1 / V

    Fields that are not in `cotangent` have none.
    """
    given = {name: x[..., None] for name, x in cotangent.items()}
    logp = logits - stats["logsumexp"][..., None]
    probs = jnp.exp(logp)
    slope: Any = given.get("logsumexp", 0.0) - given.get("logprob", 0.0)
    if "entropy" in given:
        slope = slope - given["entropy"] * (logp + stats["entropy"][..., None])
    if "sum_p2" in given:
        slope = slope + 2 * given["sum_p2"] * (probs - stats["sum_p2"][..., None])
    total = probs * slope
    if "logprob" in given:
        total = total + jnp.where(_is_target(head, logits, targets), given["logprob"], 0.0)
    if "mean_logit" in given:
        total = total + given["mean_logit"] / (logits.shape[-1] * head.layout.parts)
    return total


def _backward(head: tiles.Head, *arrays: Any) -> tuple[jax.Array, jax.Array]:
    """Gradients of this device's states, and of its part of the matrix from all tokens."""
    hidden, unembedding, targets, mask, stats, cotangent = arrays
    matrix = head.layout.spread(unembedding)

    def one(total: jax.Array, part: Any) -> tuple[jax.Array, jax.Array]:
        states, ids, known, grads = part
        logits, slope = tiles.logits(head, states, matrix)
        raw = _logit_cotangent(head, logits, ids, known, grads) * slope
        by_hidden, by_matrix = tiles.products(head, raw, states, matrix)
        return total + by_matrix, by_hidden.astype(hidden.dtype)

    total = jnp.zeros_like(matrix, dtype=jnp.float32)
    tree = (hidden, targets, stats, cotangent)
    by_matrix, by_hidden = tiles.scan_tokens(head, one, total, tree, mask)
    return by_hidden, head.layout.gradient(by_matrix).astype(unembedding.dtype)


def _token_stats_bwd(
    head: tiles.Head, want: tuple[str, ...], residuals: Any, cotangent: dict[str, Any]
) -> tuple[Any, ...]:
    *values, known = residuals
    zero = jax.custom_derivatives.SymbolicZero
    # A published statistic that no loss reads has no cotangent: nothing is computed for it.
    given = {name: x for name, x in cotangent.items() if name != "top1" and not isinstance(x, zero)}
    needed = {name: x for name, x in known.items() if name == "logsumexp" or name in given}
    inputs = (*_INPUTS, _axes(values[-1]), dict.fromkeys(needed, "bt"), dict.fromkeys(given, "bt"))
    run = head.layout.run(functools.partial(_backward, head), inputs, ("bth", "dv"))
    return *run(*values, needed, given), None, None


_token_stats.defvjp(_token_stats_fwd, _token_stats_bwd, symbolic_zeros=True)
