"""The gated delta rule and the short convolution before it, over packed rows and from a state.

Every function is of one device's own rows and heads: nothing here knows a mesh. B rows, T tokens,
K key heads, G value heads on each, H a key's size, U a value's, V = G U.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

CHUNK = 64  # tokens whose updates are solved for at once
EPS = 1e-6  # of the lengths of queries and keys


class Runs(NamedTuple):
    """Which tokens share a state, of every row.

    run: [B, T] how often the row began anew up to and with each token; 0 goes on from the state
    that came in. real: [B, T] false on padding, which changes no state.
    """

    run: jax.Array
    real: jax.Array


def runs(segments: jax.Array, last: jax.Array) -> Runs:
    """Runs of tokens of one segment; padding between them parts nothing.

    segments: [B, T], 0 on padding. last: [B], that of the last token behind the state, 0 if none.
    """
    real = segments > 0
    place = jnp.arange(segments.shape[1], dtype=jnp.int32) + 1
    at = jax.lax.cummax(jnp.where(real, place, 0), axis=1)  # the last real token, from 1
    before = jnp.concatenate([jnp.zeros_like(at[:, :1]), at[:, :-1]], axis=1)
    known = jnp.concatenate([last[:, None], segments], axis=1)
    begins = real & (segments != jnp.take_along_axis(known, before, axis=1))
    return Runs(jnp.cumsum(begins, axis=1, dtype=jnp.int32), real)


def latest(segments: jax.Array, last: jax.Array) -> jax.Array:
    """[B]: the segment of the last real token of each row; `last` where there is none."""
    place = jnp.arange(segments.shape[1], dtype=jnp.int32) + 1
    at = jnp.max(jnp.where(segments > 0, place, 0), axis=1)
    known = jnp.concatenate([last[:, None], segments], axis=1)
    return jnp.take_along_axis(known, at[:, None], axis=1)[:, 0]


def convolve(
    x: jax.Array, weight: jax.Array, held: jax.Array, parts: Runs, *, activation: str = "silu"
) -> tuple[jax.Array, jax.Array]:
    """(silu(sum_l weight[c, W-1-l] x_{t-l}[c]) [B, T, C], the last W-1 inputs [B, W-1, C]); without
    silu where activation is "none".

    Each channel by itself. x_{t-l} is the l-th real token before t of the same run, and 0 where the
    run has none: what stands between is passed over. held: the last W-1 inputs behind the state.

    Args:
      x: [B, T, C]. weight: [C, W].
    """
    taps = held.shape[1]
    x = jnp.where(parts.real[..., None], x, 0)
    joined = jnp.concatenate([held.astype(x.dtype), x], axis=1)
    run = jnp.pad(parts.run, ((0, 0), (taps, 0)))
    real = jnp.pad(parts.real, ((0, 0), (taps, 0)), constant_values=True)
    tapped = functools.partial(jax.checkpoint(_tapped, static_argnums=(0,)), activation, weight)
    if x.shape[1] == 1 or not taps:
        mixed = tapped(joined, run)
    else:
        order = jnp.argsort(~real, axis=1, stable=True)

        def passed_over(joined: jax.Array, run: jax.Array) -> jax.Array:
            back = jnp.argsort(order, axis=1)
            mixed = tapped(_rows(joined, order), jnp.take_along_axis(run, order, axis=1))
            return _rows(mixed, back)

        mixed = jax.lax.cond(has_gaps(run, real), passed_over, tapped, joined, run)
    return mixed[:, taps:], _last(joined, run, real, taps)


def has_gaps(run: jax.Array, real: jax.Array) -> jax.Array:
    """Whether padding stands between tokens [B, S] of one run."""
    return jnp.any(real[:, 1:] & ~real[:, :-1] & (run[:, 1:] == run[:, :-1]))


def _rows(x: jax.Array, order: jax.Array) -> jax.Array:
    """x [B, S, C] in the order [B, S] of each row."""
    return jnp.take_along_axis(x, order[:, :, None], axis=1)


def _tapped(activation: str, weight: jax.Array, x: jax.Array, run: jax.Array) -> jax.Array:
    """The convolution of x [B, S, C] whose neighbours are neighbours in time."""
    size = weight.shape[1]
    wide, weight = x.astype(jnp.float32), weight.astype(jnp.float32)
    mixed = wide * weight[:, size - 1]
    for lag in range(1, size):
        back = jnp.pad(wide, ((0, 0), (lag, 0), (0, 0)))[:, : wide.shape[1]]
        same = jnp.pad(run, ((0, 0), (lag, 0)), constant_values=-1)[:, : run.shape[1]] == run
        mixed = mixed + jnp.where(same[..., None], back, 0.0) * weight[:, size - 1 - lag]
    return (jax.nn.silu(mixed) if activation == "silu" else mixed).astype(x.dtype)


def _last(joined: jax.Array, run: jax.Array, real: jax.Array, taps: int) -> jax.Array:
    """The last real inputs [B, taps, C] of each row's last run; zeros where it has fewer."""
    place = jnp.arange(real.shape[1], dtype=jnp.int32)
    order = jnp.argsort(jnp.where(real, place, -1), axis=1, stable=True)
    at = order[:, real.shape[1] - taps :]
    own = jnp.take_along_axis(run, at, axis=1) == run[:, -1:]
    return jnp.where(own[..., None], _rows(joined, at), 0)


def unit(x: jax.Array) -> jax.Array:
    """x / sqrt(sum x^2 + eps) over the last axis, in fp32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return wide * jax.lax.rsqrt(jnp.sum(wide * wide, axis=-1, keepdims=True) + EPS)


@jax.custom_vjp
def inverse(lower: jax.Array) -> jax.Array:
    """(I + lower)^-1 [..., C, C] of strictly lower triangles, C a power of 2.

    By halves, [[A, 0], [B, D]]^-1 = [[A^-1, 0], [-D^-1 B A^-1, D^-1]]: as steady as substitution,
    and products alone.
    """
    size, lead = lower.shape[-1], lower.shape[:-2]
    found = jnp.broadcast_to(jnp.ones((1, 1), lower.dtype), (*lead, size, 1, 1))
    found = found + 0.0 * lower[..., :1, :1][..., None]  # laid out as `lower` is
    half = 1
    while half < size:
        count = size // (2 * half)
        cut = lower.reshape(*lead, count, 2, half, count, 2, half)
        cut = jnp.moveaxis(jnp.diagonal(cut[..., 1, :, :, 0, :], axis1=-4, axis2=-2), -1, -3)
        pairs = found.reshape(*lead, count, 2, half, half)
        first, second = pairs[..., 0, :, :], pairs[..., 1, :, :]
        below = -_product(_product(second, cut), first)
        above = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        found = jnp.concatenate([above, jnp.concatenate([below, second], axis=-1)], axis=-2)
        half *= 2
    return found.reshape(*lead, size, size)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _inverse_back(found: jax.Array, slope: jax.Array) -> tuple[jax.Array]:
    turned = jnp.swapaxes(found, -1, -2)
    return (jnp.tril(-_product(_product(turned, slope), turned), -1),)


inverse.defvjp(lambda lower: (found := inverse(lower), found), _inverse_back)


def between(decay: jax.Array) -> jax.Array:
    """[..., C, C]: sum of `decay` [..., C] over tokens j+1 to i, for i >= j; elsewhere 0.

    Summed from j on, not as a difference of two sums from the chunk's start: a strong decay before
    both would round away what is between them.
    """
    size = decay.shape[-1]
    later = jnp.tri(size, size, -1, dtype=bool)
    return jnp.cumsum(jnp.where(later, decay[..., :, None], 0.0), axis=-2)


class _Chunk(NamedTuple):
    """What one chunk of C tokens does with the state [B, K, G, H, U] that reaches it.

    query, key: [B, K, C, H]. attend: [B, K, G, C, C] weights of the chunk's own corrections. fresh:
    [B, K, G, C, U] corrections of an empty state; seen: [B, K, G, C, H] what the state takes from
    them. entering, leaving: [B, K, G, C] factors of the state for each token, and of each token's
    correction for the state behind the chunk; kept: [B, K, G] that of the state itself.
    """

    query: jax.Array
    key: jax.Array
    attend: jax.Array
    fresh: jax.Array
    seen: jax.Array
    entering: jax.Array
    leaving: jax.Array
    kept: jax.Array


def gated_delta_rule(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    write: jax.Array,
    decay: jax.Array,
    parts: Runs,
    state: jax.Array,
    *,
    chunk: int = CHUNK,
) -> tuple[jax.Array, jax.Array]:
    """(read [B, T, K, G, U], the state behind the last token), in fp32 at least.

    S_t = exp(decay_t) S_{t-1}, then S_t += write_t k_t (v_t - k_t^T S_t)^T, and read_t = q_t^T S_t.
    A new run starts at S = 0; padding leaves S as it is, and what it reads means nothing. Tokens of
    a chunk are solved for at once: with D_ij the decay from j to i, L_ij = write_i D_ij k_i . k_j
    below the diagonal and T = (I + L)^-1, the corrections are T (write v) - T (write D_i0 k) S.

    Args:
      query, key: [B, T, K, H], of any length; the rule wants keys of length 1. value: [B, T, K, G,
        U]. write: [B, T, K, G] in (0, 1). decay: [B, T, K, G] nats, at most 0. state: [B, K, G, H,
        U].

    Reference: Yang et al. 2024 (Gated Delta Networks), equations 10 and 12 to 15; Yang et al. 2024
    (DeltaNet), section 3.
    """
    time = query.shape[1]
    size = min(chunk, 1 << (time - 1).bit_length())
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    real = parts.real[..., None, None]
    numbers = (query, key, value, jnp.where(real, write, 0.0), jnp.where(real, decay, 0.0))
    q, k, v, w, g = (_cut(x.astype(dtype), size) for x in numbers)
    made = _chunks(q, k, v, w, g, _cut(parts.run, size, mode="edge"))

    def step(state: jax.Array, one: _Chunk) -> tuple[jax.Array, jax.Array]:
        new = one.fresh - jnp.matmul(one.seen, state)
        found = one.entering[..., None] * jnp.matmul(one.query[:, :, None], state)
        found = found + jnp.matmul(one.attend, new)
        added = jnp.einsum("bkch,bkgcu->bkghu", one.key, one.leaving[..., None] * new)
        return one.kept[..., None, None] * state + added, found

    if made.kept.shape[0] == 1:
        state, found = step(state.astype(dtype), jax.tree.map(lambda x: x[0], made))
        found = found[None]
    else:
        state, found = jax.lax.scan(step, state.astype(dtype), made)
    found = jnp.moveaxis(found, (0, 4), (1, 2))  # [B, N, C, K, G, U]
    whole = found.reshape(found.shape[0], -1, *found.shape[3:])
    return whole[:, :time], state


def _cut(x: jax.Array, size: int, mode: Any = "constant") -> jax.Array:
    """x [B, T, ...] in chunks, [N, B, size, ...], with a rest filled up."""
    count = math.ceil(x.shape[1] / size)
    more = [(0, 0), (0, count * size - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
    whole = jnp.pad(x, more, mode=mode)
    return jnp.moveaxis(whole.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)


def _chunks(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    write: jax.Array,
    decay: jax.Array,
    run: jax.Array,
) -> _Chunk:
    """All chunks; arguments [N, B, C, ...], run [N, B, C]."""
    query, key = (jnp.swapaxes(x, 2, 3) for x in (query, key))  # [N, B, K, C, H]
    value, write, decay = (jnp.moveaxis(x, 2, 4) for x in (value, write, decay))
    last = run[:, :, -1]
    before = jnp.concatenate([jnp.zeros_like(last[:1]), last[:-1]])[:, :, None]
    reached, stays = (x[:, :, None, None] for x in (run == before, run == last[:, :, None]))
    size = run.shape[2]
    same = (run[..., :, None] == run[..., None, :]) & jnp.tri(size, dtype=bool)
    same = same[:, :, None, None]  # [N, B, 1, 1, C, C]
    apart = jnp.where(same, jnp.exp(between(decay)), 0.0)
    near = jnp.matmul(key, jnp.swapaxes(key, -1, -2))[:, :, :, None]
    lower = jnp.where(jnp.tri(size, k=-1, dtype=bool), write[..., None] * near * apart, 0.0)
    solved = inverse(lower)
    entering = jnp.where(reached, jnp.exp(jnp.cumsum(decay, axis=-1)), 0.0)
    taken = (write * entering)[..., None] * key[:, :, :, None]
    attend = jnp.matmul(query, jnp.swapaxes(key, -1, -2))[:, :, :, None] * apart
    return _Chunk(
        query=query,
        key=key,
        attend=attend,
        fresh=jnp.matmul(solved, write[..., None] * value),
        seen=jnp.matmul(solved, taken),
        entering=entering,
        leaving=jnp.where(stays, apart[..., -1, :], 0.0),
        kept=entering[..., -1],
    )
