"""Prompts read into a cache, each once, for one completion or several."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.models import cache_rows
from alignjax.models import model as models
from alignjax.sampling import draws


def right_padded(tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(positions, segments) [B, T] of rows that fill from the left up to their lengths."""
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] + jnp.zeros_like(tokens)
    return positions, (positions < lengths[:, None]).astype(jnp.int32)


def read_prompts(
    model: models.Model,
    params: Any,
    prompts: jax.Array,
    lengths: jax.Array,
    slots: int,
    count: int = 1,
) -> tuple[jax.Array, Any]:
    """(logits [B, V] fp32 behind the prompts, a cache of `slots` that holds them), B = P count.

    prompts: [P, W], right-padded. Each is read once and stands there `count` times in a row; where
    a Flax model has a cache of its own, whose rows are not told apart, it is read that often.
    """
    apart = cache_rows.is_ours(jax.eval_shape(lambda: model.cache(len(lengths), slots)))
    if not apart:
        prompts, lengths = (cache_rows.repeated(x, count) for x in (prompts, lengths))
    positions, segments = right_padded(prompts, lengths)
    cache = model.cache(len(lengths), slots)
    hidden, cache = model.hidden(
        params, prompts, positions=positions, segments=segments, cache=cache
    )
    last = (lengths - 1)[:, None, None] + jnp.zeros_like(hidden[:, :1], jnp.int32)
    logits = draws.logits(model, params, jnp.take_along_axis(hidden, last, axis=1))
    if not apart:
        return logits, cache
    return cache_rows.repeated(logits, count), cache_rows.repeat(cache, count)
