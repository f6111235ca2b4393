"""Reductions of losses of tokens, by name.

mask [B, T]: tokens that count. Optional row_mask [B], 1 for the rows that means over rows count:
rows with a token unless given (TRL also counts a truncated answer whose tokens are all masked).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays
from alignjax.compat.blocks import options as settings
from alignjax.core import mean


def rows(arrays: Arrays) -> jax.Array:
    """[B]: rows that count."""
    if "row_mask" in arrays:
        return jnp.asarray(arrays["row_mask"]) != 0
    return jnp.any(jnp.asarray(arrays["mask"]) != 0, axis=-1)


def over_time(values: jax.Array, arrays: Arrays) -> jax.Array:
    """Losses [B] at every token of their row, [B, T]; those of tokens as they are."""
    if values.ndim > 1:
        return values
    return jnp.broadcast_to(values[:, None], jnp.shape(arrays["mask"]))


def token_mean(values: jax.Array, arrays: Arrays) -> mean.Mean:
    """Over all counted tokens."""
    return losses.token_mean(over_time(values, arrays), arrays["mask"])


def row_mean(values: jax.Array, arrays: Arrays) -> mean.Mean:
    """Over the tokens of each row, then over all rows; of losses [B] over rows."""
    if values.ndim == 1:
        return mean.masked(values, rows(arrays))
    return losses.row_mean(values, arrays["mask"], rows=rows(arrays))


def row_sum(values: jax.Array, arrays: Arrays) -> mean.Mean:
    """Summed over the tokens of each row, then averaged over all rows."""
    values = over_time(values, arrays)
    return losses.row_sum(values, arrays["mask"], rows=rows(arrays))


def row_fixed(values: jax.Array, arrays: Arrays, *, length: float | None = None) -> mean.Mean:
    """Summed over the tokens of each row, over `length` (None: the padded width T), then averaged
    over all rows."""
    width = jnp.shape(arrays["mask"])[1] if length is None else length
    values = over_time(values, arrays)
    return losses.row_fixed(values, arrays["mask"], length=width, rows=rows(arrays))


def group_mean(values: jax.Array, arrays: Arrays, *, group_size: int) -> mean.Mean:
    """Over all tokens of a prompt's samples, then over prompts."""
    values = over_time(values, arrays)
    return losses.group_mean(values, arrays["mask"], group_size=group_size)


def every_row_mean(values: jax.Array, arrays: Arrays) -> mean.Mean:
    """Of losses [B] over all rows, those without a token as well, unless there is a row_mask."""
    keep = arrays["row_mask"] if "row_mask" in arrays else jnp.ones_like(values)
    return mean.masked(values, keep)


REDUCTIONS: Mapping[str, Callable[..., mean.Mean]] = {
    "token_mean": token_mean,
    "row_mean": row_mean,
    "row_sum": row_sum,
    "row_fixed": row_fixed,
    "group_mean": group_mean,
    "every_row_mean": every_row_mean,
}


def mean_of(
    values: jax.Array, arrays: Arrays, reduction: str, options: Mapping[str, Any]
) -> mean.Mean:
    """Losses of tokens [B, T], or of rows [B], as a mean; the option `reduction` goes first."""
    reduce = settings.block(REDUCTIONS, "reduction", options.get("reduction", reduction))
    return reduce(values, arrays, **settings.accepted(reduce, options))


def scale(term: mean.Mean, factor: float) -> mean.Mean:
    """`factor` times the mean."""
    return mean.Mean(total=factor * term.total, weight=term.weight)
