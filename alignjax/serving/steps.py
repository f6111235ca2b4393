"""The functions that an engine of slots compiles: prompts read in pieces, rows put into slots, a
step of all slots.

A row's numbers come from its own tokens and options alone. What is drawn is what
`sampling.generate` draws for a row of that number, seed and options.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.models import cache_rows
from alignjax.models import model as models
from alignjax.models.adapters import many
from alignjax.sampling import draws, transforms

TOP = 20  # most likely tokens of a place that are told, at most: OpenAI's limit
GREEDY, PLAIN, TRUNCATED = range(3)  # what the slots of a step need to be drawn
HEAD = 1024  # most likely tokens that are sorted first
PLAIN_SAMPLING = transforms.SamplingConfig()


@struct.pytree
class Columns:
    """What tells a slot's row, all [S]: its number, its options, its adapter's number."""

    rows: jax.Array
    seed: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    adapter: jax.Array


@struct.pytree
class Pending:
    """The last token [S] of each slot's row, which the model has not read yet; its position in the
    row; live [S]: whether the slot holds a row."""

    token: jax.Array
    position: jax.Array
    live: jax.Array


@struct.pytree
class Scores:
    """Of each of N places: the token's log-probability under the model's own law, nats [N]; the
    most likely tokens [N, TOP] with theirs, falling, if they were asked for."""

    logprob: jax.Array
    top: jax.Array
    top_logprobs: jax.Array


@struct.pytree
class Wanted:
    """What a program does besides: kind, the most that its rows need to be drawn (GREEDY, PLAIN,
    TRUNCATED); top, whether the most likely tokens are told. Both are scalars."""

    kind: jax.Array
    top: jax.Array


class Shape(NamedTuple):
    """Sizes of an engine. reads: lengths of the cache that a step reads, rising, the last its
    whole `context`. buckets: lengths of the pieces in which prompts are read, rising."""

    model: models.Model
    slots: int
    context: int
    reads: tuple[int, ...]
    buckets: tuple[int, ...]
    adapters: bool = False


def sizes(least: int, most: int, factor: int = 2) -> tuple[int, ...]:
    """`least` and its multiples by powers of `factor` below `most`, then `most` itself."""
    found = [least]
    while found[-1] < most:
        found.append(factor * found[-1])
    return (*(size for size in found if size < most), most)


def fitting(sizes: tuple[int, ...], need: int) -> int:
    """The smallest of rising sizes that is enough."""
    return next(size for size in sizes if size >= need)


def weights(shape: Shape, params: Any, ids: jax.Array) -> Any:
    """The parameters for rows that use the adapters ids [B]."""
    return many.with_rows(params, ids) if shape.adapters else params


def score(logits: jax.Array, tokens: jax.Array, top: jax.Array) -> Scores:
    """The scores of tokens [N] under logits [N, V] fp32."""
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    count = min(TOP, logits.shape[-1])
    own = jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]

    def best(logprobs: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, at = jax.lax.top_k(logprobs, count)
        return at.astype(jnp.int32), values

    def none(logprobs: jax.Array) -> tuple[jax.Array, jax.Array]:
        blank = jnp.zeros((len(logprobs), count), jnp.int32)
        return blank, blank.astype(jnp.float32)

    at, values = jax.lax.cond(top, best, none, logprobs)
    return Scores(logprob=own, top=at, top_logprobs=values)


def next_tokens(
    logits: jax.Array, position: jax.Array, columns: Columns, kind: jax.Array
) -> jax.Array:
    """Tokens [S] at these positions from the model's logits [S, V].

    Sorting a vocabulary, or noise for all of it, costs as much as a small model: only what the
    rows of a step need is done.
    """
    options = transforms.RowOptions(temperature=columns.temperature, seed=columns.seed)

    def by(law: Any) -> Any:
        def draw(logits: jax.Array) -> jax.Array:
            keys = draws.row_keys(jax.random.key(0), columns.rows, options)
            return draws.draw(keys, position, law(logits))[0]

        return draw

    def greedy(logits: jax.Array) -> jax.Array:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def plain(logits: jax.Array) -> jax.Array:
        return transforms.final_logits(logits, PLAIN_SAMPLING, options)

    def cut(logits: jax.Array) -> jax.Array:
        return truncated(logits, columns)

    return jax.lax.switch(kind, (greedy, by(plain), by(cut)), logits)


def truncated(logits: jax.Array, columns: Columns) -> jax.Array:
    """`transforms.final_logits` with every option of the rows; logits [S, V].

    Sorting a vocabulary takes twice the time of a small model's step: where what rows keep is among
    their HEAD most likely tokens, only these are sorted.
    """
    options = transforms.RowOptions(
        temperature=columns.temperature, top_k=columns.top_k, top_p=columns.top_p
    )
    size = min(HEAD, logits.shape[-1])
    plain = transforms.RowOptions(temperature=columns.temperature)
    law = transforms.final_logits(logits, PLAIN_SAMPLING, plain)
    head = jax.lax.top_k(law, size)[0]
    k, p = columns.top_k[:, None], columns.top_p[:, None]
    by_k = (k > 0) & (k < logits.shape[-1])
    within = (jnp.arange(size)[None] < k) | ~by_k
    total = jnp.where(
        by_k,
        jax.nn.logsumexp(head, axis=-1, keepdims=True, where=within),
        jax.nn.logsumexp(law, axis=-1, keepdims=True),
    )
    probs = jnp.where(within, jnp.exp(head - total), 0.0)
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = within & ((before < jnp.maximum(p, transforms.LEAST_MASS)) | (p >= 1))
    smallest = jnp.min(jnp.where(kept, head, jnp.inf), axis=-1, keepdims=True)
    whole = ~by_k & (p >= 1)
    fits = whole | (by_k & (k <= size)) | (~by_k & ~kept[:, -1:])

    def short(law: jax.Array) -> jax.Array:
        return jnp.where(~whole & (law < smallest), -jnp.inf, law)

    def long(law: jax.Array) -> jax.Array:
        return transforms.final_logits(logits, PLAIN_SAMPLING, options)

    return jax.lax.cond(jnp.all(fits | (columns.temperature[:, None] <= 0)), short, long, law)


def empty(shape: Shape, rows: int) -> Any:
    """A cache of `rows` that holds nothing, each written at a place of its own."""
    cache = shape.model.cache(rows, shape.context)
    return cache_rows.by_row(cache, jnp.zeros((rows,), jnp.int32))


def reset(cache: Any) -> Any:
    """The cache with nothing in it; keys and values stay, unseen."""
    return jax.tree.map(lambda x: jnp.zeros_like(x) if x.ndim <= 2 else x, cache)


def read_piece(
    shape: Shape,
    params: Any,
    cache: Any,
    tokens: jax.Array,
    targets: jax.Array,
    start: jax.Array,
    count: jax.Array,
    adapter: jax.Array,
    scored: jax.Array,
) -> tuple[Any, jax.Array, Scores]:
    """(the cache [1] with another piece of a prompt, logits [1, V] behind it, scores of targets).

    tokens, targets: [1, T], the first `count` of them real; targets are the tokens that follow.
    start: position of the first. scored: whether scores are asked for; else they are zeros.
    """
    model, size = shape.model, tokens.shape[1]
    params = weights(shape, params, adapter)
    offset = jnp.arange(size, dtype=jnp.int32)[None]
    hidden, cache = model.hidden(
        params,
        tokens,
        positions=start + offset,
        segments=(offset < count).astype(jnp.int32),
        cache=cache,
    )
    last = jax.lax.dynamic_slice_in_dim(hidden, count - 1, 1, axis=1)

    def scores(hidden: jax.Array) -> Scores:
        places = jnp.swapaxes(hidden, 0, 1)  # each a row of its own
        return score(draws.logits(model, params, places), targets[0], scored)

    def nothing(hidden: jax.Array) -> Scores:
        blank = jnp.zeros((size, min(TOP, model.vocab_size)), jnp.int32)
        return Scores(logprob=jnp.zeros((size,)), top=blank, top_logprobs=blank.astype(jnp.float32))

    found = jax.lax.cond(scored, scores, nothing, hidden)
    return cache, draws.logits(model, params, last), found


def put(cache: Any, read: Any, slot: jax.Array, *, slots: int) -> Any:
    """The cache with the row of another, of which `slots` are written, in one of its slots."""
    leaves, structure = jax.tree.flatten(read)
    cut = [
        x if place.slot is None else jax.lax.slice_in_dim(x, 0, slots, axis=place.slot)
        for x, place in zip(leaves, cache_rows.places(read), strict=True)
    ]
    one = jnp.ones((1,), jnp.int32)
    return cache_rows.put(cache, jax.tree.unflatten(structure, cut), slot, 0 * one, one)


def draw(
    logits: jax.Array, position: jax.Array, columns: Columns, wanted: Wanted
) -> tuple[jax.Array, Scores]:
    """(the next token [S] of rows at these positions, from their logits [S, V]; its scores)."""
    token = next_tokens(logits, position, columns, wanted.kind)
    return token, score(logits, token, wanted.top)


def step(
    shape: Shape, params: Any, cache: Any, pending: Pending, adapter: jax.Array, *, read: int
) -> tuple[Any, jax.Array]:
    """(the cache, logits [S, V] of each slot's next token); those of a free slot mean nothing.

    read: slots of the cache that are read.
    """
    model = shape.model
    params = weights(shape, params, adapter)
    hidden, cache = model.hidden(
        params,
        pending.token[:, None],
        positions=pending.position[:, None],
        segments=pending.live.astype(jnp.int32)[:, None],
        cache=cache_rows.reading(cache, 0 if read == shape.context else read),
    )
    return cache_rows.reading(cache, 0), draws.logits(model, params, hidden)
