"""Programs of the chunked sampler: prompts read, a chunk of steps, rows moved between chunks.

Only the cache stays on the devices between chunks; all else of a row is a few numbers that the host
knows.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import cache_rows
from alignjax.models import model as models
from alignjax.parallel import axes
from alignjax.sampling import draws, prefill, transforms


@struct.pytree
class Columns:
    """What tells a slot's row, all [S]: its number, the place behind its last possible token, its
    options."""

    rows: jax.Array
    end: jax.Array
    options: transforms.RowOptions


@struct.pytree
class Pending:
    """The last token [S] of each slot's row, which the model has not read yet; its position in the
    row; live [S]: whether the row goes on behind it."""

    token: jax.Array
    position: jax.Array
    live: jax.Array


@struct.pytree
class Chunk:
    """Tokens [S, K] with their log-probabilities, nats; the first count [S] of them are the row's.

    ended: [S] whether one of them ended the row.
    """

    tokens: jax.Array
    logprobs: jax.Array
    count: jax.Array
    ended: jax.Array


class Sampler(NamedTuple):
    """What all programs of a sampler share; ends: ids at which rows end; group: rows a prompt."""

    model: models.Model
    config: transforms.SamplingConfig
    ends: tuple[int, ...]
    pad: int
    group: int


def next_token(
    sampler: Sampler, logits: jax.Array, position: jax.Array, columns: Columns, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(tokens [S] at these positions, log-probabilities [S]) from the model's logits [S, V]."""
    keys = draws.row_keys(key, columns.rows, columns.options)
    law = transforms.final_logits(logits, sampler.config, columns.options)
    return draws.draw(keys, position, law)


def first(
    sampler: Sampler, logits: jax.Array, lengths: jax.Array, columns: Columns, key: jax.Array
) -> Chunk:
    """The first token of each row, behind its prompt."""
    token, logprob = next_token(sampler, logits, lengths, columns, key)
    ended = draws.is_end(token, sampler.ends)
    return Chunk(
        tokens=token[:, None],
        logprobs=logprob[:, None],
        count=jnp.ones_like(lengths),
        ended=ended,
    )


def begin(
    sampler: Sampler,
    params: Any,
    prompts: jax.Array,
    lengths: jax.Array,
    columns: Columns,
    key: jax.Array,
) -> tuple[Any, Chunk]:
    """(the cache of all rows, their first tokens): where every row has a slot."""
    slots = prompts.shape[1] + sampler.config.max_new_tokens
    logits, cache = prefill.read_prompts(
        sampler.model, params, prompts, lengths, slots, sampler.group
    )
    lengths = cache_rows.repeated(lengths, sampler.group)
    return cache, first(sampler, logits, lengths, columns, key)


def empty(sampler: Sampler, rows: int, slots: int) -> Any:
    """A cache that holds nothing, each of its rows written at a place of its own."""
    written = axes.shard(jnp.zeros((rows,), jnp.int32), "batch")
    return cache_rows.by_row(sampler.model.cache(rows, slots), written)


def stock(
    sampler: Sampler, params: Any, prompts: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, Any]:
    """(logits [p, V] behind prompts, a cache that holds nothing but them)."""
    slots = prompts.shape[1]
    logits, cache = prefill.read_prompts(sampler.model, params, prompts, lengths, slots)
    return logits, cache_rows.by_row(cache, lengths)


@struct.pytree
class Filled:
    """Rows of a stock for free slots, as `cache_rows.put` takes them: to, place [S], count [D].

    source [S]: of every slot, the place in the stock of what it gets; lengths [S]: of its prompt.
    """

    to: jax.Array
    place: jax.Array
    count: jax.Array
    source: jax.Array
    lengths: jax.Array


def insert(
    sampler: Sampler,
    cache: Any,
    stock: tuple[jax.Array, Any],
    filled: Filled,
    columns: Columns,
    key: jax.Array,
) -> tuple[Any, Chunk]:
    """(the cache with rows of the stock in free slots, the first tokens of those).

    What comes out for a slot that was not filled means nothing.
    """
    logits, other = stock
    cache = cache_rows.put(cache, other, filled.to, filled.place, filled.count)
    logits = cache_rows.taken(logits, filled.source)
    return cache, first(sampler, logits, filled.lengths, columns, key)


def decode(
    sampler: Sampler,
    params: Any,
    cache: Any,
    pending: Pending,
    columns: Columns,
    key: jax.Array,
    *,
    read: int,
) -> tuple[Any, Pending, Chunk]:
    """(the cache, what is pending, what was drawn) after at most `chunk` steps of the live rows.

    params: prepared. read: slots of the cache that are read, 0 for all.
    """
    model, steps = sampler.model, sampler.config.chunk

    def go_on(loop: Any) -> jax.Array:
        return (loop["step"] < steps) & jnp.any(loop["pending"].live)

    def body(loop: Any) -> Any:
        step, old = loop["step"], loop["pending"]
        live = old.live
        hidden, cache = model.hidden(
            params,
            old.token[:, None],
            positions=old.position[:, None],
            segments=live.astype(jnp.int32)[:, None],
            cache=loop["cache"],
        )
        position = old.position + 1
        logits = draws.logits(model, params, hidden)
        token, logprob = next_token(sampler, logits, position, columns, key)
        token = jnp.where(live, token, sampler.pad)
        ended = live & draws.is_end(token, sampler.ends)
        put = jax.lax.dynamic_update_slice
        drawn = loop["drawn"]
        return {
            "step": step + 1,
            "cache": cache,
            "pending": Pending(
                token=token, position=position, live=live & ~ended & (position + 1 < columns.end)
            ),
            "drawn": Chunk(
                tokens=put(drawn.tokens, token[:, None], (0, step)),
                logprobs=put(drawn.logprobs, jnp.where(live, logprob, 0.0)[:, None], (0, step)),
                count=drawn.count + live,
                ended=drawn.ended | ended,
            ),
        }

    blank = jnp.broadcast_to(jnp.zeros_like(pending.token)[:, None], (len(pending.token), steps))
    nothing = Chunk(
        tokens=blank + sampler.pad,
        logprobs=blank.astype(jnp.float32),
        count=jnp.zeros_like(pending.token),
        ended=jnp.zeros_like(pending.live),
    )
    loop = jax.lax.while_loop(
        go_on,
        body,
        {
            "step": jnp.zeros((), jnp.int32),
            "cache": cache_rows.reading(cache, read) if read else cache,
            "pending": pending,
            "drawn": nothing,
        },
    )
    cache = cache_rows.reading(loop["cache"], 0) if read else loop["cache"]
    return cache, loop["pending"], loop["drawn"]
