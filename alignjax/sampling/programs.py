"""Compiled programs of the chunked sampler: all that a call can need, before anything is drawn."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.models import cache_rows
from alignjax.sampling import calls, ragged, schedule


class Programs(NamedTuple):
    """The functions of ragged.py for a call's sizes.

    begin: where all rows have slots; empty, stock, insert: where some wait. decode: by slots of a
    shard and of a row's cache. take: by slots of a shard, to the next size.
    """

    prepare: Any
    decode: Mapping[tuple[int, int], Any]
    take: Mapping[int, Any]
    begin: Any = None
    empty: Any = None
    stock: Any = None
    insert: Any = None


def compiled(call: calls.Call) -> Programs:
    """Every program that a call of these sizes can need."""
    size, sampler = call.size, call.sampler
    rows, lengths = size.rungs
    cache, first = _with_stock(call) if size.stock else _without(call)
    ready = jax.eval_shape(sampler.model.prepare, call.params)
    decode, take = {}, {}
    for count, following in zip(rows, (*rows[1:], 0), strict=True):
        slots = _blank(size, count)
        own = (call.pending(slots), call.columns(slots), call.key)
        for length in lengths:
            # What is read in full is not cut: any cache can do that.
            run = functools.partial(
                ragged.decode, sampler, read=0 if length == lengths[-1] else length
            )
            weights = call.weights(ready, slots)
            decode[count, length] = _lowered(run, weights, cache, *own, give=(1,))
        if following:
            kept = calls.placed(_blank(size, following).reshape(-1).astype(np.int32))
            take[count] = _lowered(cache_rows.take, cache, kept)
            cache = jax.eval_shape(cache_rows.take, cache, kept)
    prepare = prepared(sampler.model.prepare, call.params)
    return Programs(prepare=prepare, decode=decode, take=take, **first)


def prepared(function: Callable[[Any], Any], params: Any) -> Callable[[Any], Any]:
    """`Model.prepare`, compiled for weights like these; what it leaves as it is, is not copied."""
    traced, result = jax.make_jaxpr(function, return_shape=True)(params)
    source: dict[int, int | None] = {id(x): number for number, x in enumerate(traced.jaxpr.invars)}
    for step in traced.jaxpr.eqns:
        # Weights that are laid out already as they are read.
        if step.primitive.name == "reshard" and step.invars[0].aval == step.outvars[0].aval:
            source |= {id(step.outvars[0]): source.get(id(step.invars[0]))}
    places = [source.get(id(x)) for x in traced.jaxpr.outvars]
    structure = jax.tree.structure(result)

    def others(own: Any) -> list[Any]:
        leaves = jax.tree.leaves(function(own))
        return [x for x, place in zip(leaves, places, strict=True) if place is None]

    run = _lowered(others, params) if None in places else lambda own: []

    def ready(own: Any) -> Any:
        left, new = jax.tree.leaves(own), iter(run(own))
        leaves = [next(new) if n is None else left[n] for n in places]
        return jax.tree.unflatten(structure, leaves)

    return ready


def _without(call: calls.Call) -> tuple[Any, dict[str, Any]]:
    """(shapes of the cache, the first programs) where all rows have slots."""
    run = functools.partial(ragged.begin, call.sampler)
    read = call.read(np.arange(len(call.lengths)))
    columns = call.columns(_blank(call.size, call.size.rungs.rows[0]))
    arguments = (*read, columns, call.key)
    return jax.eval_shape(run, *arguments)[0], {"begin": _lowered(run, *arguments)}


def _with_stock(call: calls.Call) -> tuple[Any, dict[str, Any]]:
    """(shapes of the cache, the first programs) where rows wait for slots."""
    size, sampler = call.size, call.sampler
    slots = _blank(size, size.rungs.rows[0])
    empty = functools.partial(ragged.empty, sampler, size.slots, size.rungs.lengths[-1])
    stock, read = functools.partial(ragged.stock, sampler), call.read(_blank(size, size.stock))
    insert = functools.partial(ragged.insert, sampler)
    cache, held = jax.eval_shape(empty), jax.eval_shape(stock, *read)
    filled = call.filled(slots, schedule.Fill(slots, slots, slots[:, 0]))
    arguments = (cache, held, filled, call.columns(slots), call.key)
    return cache, {
        "empty": _lowered(empty),
        "stock": _lowered(stock, *read),
        "insert": _lowered(insert, *arguments, give=(0,)),
    }


def _blank(size: calls.Sizes, count: int) -> np.ndarray:
    return np.zeros((size.shards, count), np.int64)


def _lowered(function: Any, *arguments: Any, give: tuple[int, ...] = ()) -> Any:
    """The function compiled for arguments like these; `give`: those that it may write over."""
    return jax.jit(function, donate_argnums=give).lower(*arguments).compile()
