"""Draws with a key for every row and position, so that none depends on the rows beside it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.models import model as models
from alignjax.parallel import axes
from alignjax.sampling import transforms


def end_ids(eos: int | Sequence[int]) -> tuple[int, ...]:
    """The ids at which rows end, of one or several."""
    return (eos,) if isinstance(eos, int) else tuple(eos)


def is_end(tokens: jax.Array, ends: tuple[int, ...]) -> jax.Array:
    """Whether tokens are among the ids at which rows end."""
    if len(ends) > 8:  # one comparison, however many there are
        return jnp.any(tokens[..., None] == jnp.asarray(ends, tokens.dtype), axis=-1)
    found = jnp.zeros_like(tokens, jnp.bool_)
    for end in ends:
        found |= tokens == end
    return found


def logits(model: models.Model, params: Any, hidden: jax.Array) -> jax.Array:
    """The model's logits [B, V] fp32 of the next token, from states [B, 1, D]."""
    matrix = axes.shard(model.unembedding(params), "embed vocab")
    found = axes.einsum("btd,dv->btv", hidden, matrix, "batch slot vocab", jnp.float32)
    if model.logit_softcap:
        found = model.logit_softcap * jnp.tanh(found / model.logit_softcap)
    return found[:, 0]


def numbers(lengths: jax.Array, rows: jax.Array | None) -> jax.Array:
    """The rows' numbers [B]: those given, or their places."""
    if rows is not None:
        return rows
    return jnp.arange(len(lengths), dtype=jnp.int32) + jnp.zeros_like(lengths)


def row_keys(
    key: jax.Array, rows: jax.Array, options: transforms.RowOptions | None = None
) -> jax.Array:
    """Keys [B], one a row: fold_in(key, rows[b]), with jax.random.key(seed) for a row's own seed.

    rows: [B] int, the rows' numbers.
    """

    def seeded(seed: jax.Array, row: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.key(seed), row)

    if options is not None and options.seed is not None:
        return jax.vmap(seeded)(options.seed, rows)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def draw(keys: jax.Array, positions: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(tokens [B], their log-probabilities [B], nats) of the laws with logits [B, V].

    Row b takes argmax_v (logits[b, v] + g_v), g standard Gumbel of fold_in(keys[b], positions[b]):
    of keys, position and logits of its own row alone, whatever its place in the batch.

    keys: [B], of `row_keys`. positions: [B] int, each token's place in its row.

    Reference: Gumbel 1954; Maddison et al. 2014, section 2.
    """

    def one(key: jax.Array, position: jax.Array, row: jax.Array) -> jax.Array:
        # Devices that share a vocabulary draw a part of the noise each.
        where = jax.typeof(row).sharding.spec if axes.has_mesh() else None
        own = jax.random.fold_in(key, position)
        noise = jax.random.gumbel(own, row.shape, row.dtype, out_sharding=where)
        return jnp.argmax(row + noise)

    token = jax.vmap(one)(keys, positions, logits).astype(jnp.int32)
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    # No gather along a vocabulary that may be in parts.
    sampled = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) == token[:, None]
    return token, jnp.sum(jnp.where(sampled, logprobs, 0.0), axis=-1)
