"""Reductions: the last part of a loss, where similar methods differ.

Each gives a `Mean`, whose weight follows from the mask alone: sums of parts add up exactly over
micro-batches and devices, and a row without a counted token weighs nothing.

    row_mean    GRPO, GSPO-token, SAPO: tokens averaged in each row, then rows
    row_sum     REINFORCE, RLOO, LUSPO: tokens summed in each row, then averaged over rows
    row_fixed   Dr. GRPO: tokens summed, divided by a constant length, then averaged over rows
    token_mean  DAPO over the batch, BNPO (over a micro-batch), CISPO, SFT: all tokens alike
    group_mean  DAPO per prompt: all tokens of a prompt's samples alike, then prompts
"""

import jax
import jax.numpy as jnp

from alignjax.core import mean, shapes
from alignjax.losses import inputs


def _rows(
    values: jax.Array, mask: jax.Array | None, rows: jax.Array | None = None
) -> tuple[jax.Array, ...]:
    """(sum per row, tokens per row, 1 for rows that count), each [B]."""
    keep, values = inputs.masked("B T", mask, values=values)
    tokens = jnp.sum(keep.astype(values.dtype), axis=-1)
    if rows is None:
        return jnp.sum(values, axis=-1), tokens, (tokens > 0).astype(values.dtype)
    counted = inputs.mask_of(rows, tokens, "B", "rows").astype(values.dtype)
    return counted * jnp.sum(values, axis=-1), tokens, counted


def token_mean(values: jax.Array, mask: jax.Array | None = None) -> mean.Mean:
    """Mean over all counted tokens.

    Args:
      values: [B, T] float.
      mask: [B, T], 1 where counted; None counts all.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Yu et al. (2025, DAPO), equation 12.
    """
    sums, tokens, _ = _rows(values, mask)
    return mean.Mean(total=jnp.sum(sums), weight=jnp.sum(tokens))


def row_mean(
    values: jax.Array, mask: jax.Array | None = None, *, rows: jax.Array | None = None
) -> mean.Mean:
    """Mean over rows of each row's token mean: a token of a long row weighs less.

    Args:
      values, mask: as `token_mean`.
      rows: [B], 1 for the rows to average over; None: those with a counted token. With ones a row
        whose tokens are all masked (say, a truncated response) still counts as a 0.

    Raises:
      ValueError: shapes differ, mask or rows not 0/1.

    Reference: Shao et al. (2024, GRPO), equation 3.
    """
    sums, tokens, some = _rows(values, mask, rows)
    return mean.Mean(total=jnp.sum(sums / jnp.maximum(tokens, 1.0)), weight=jnp.sum(some))


def row_sum(
    values: jax.Array, mask: jax.Array | None = None, *, rows: jax.Array | None = None
) -> mean.Mean:
    """Mean over rows of each row's sum over tokens: the policy gradient of whole sequences.

    Args, Raises: as `row_mean`.
    """
    sums, _, some = _rows(values, mask, rows)
    return mean.Mean(total=jnp.sum(sums), weight=jnp.sum(some))


def row_fixed(
    values: jax.Array,
    mask: jax.Array | None = None,
    *,
    length: float,
    rows: jax.Array | None = None,
) -> mean.Mean:
    """Mean over rows of each row's sum divided by a constant `length` in tokens.

    Args, Raises: as `row_mean`; length <= 0. Reference: Liu et al. (2025, Dr. GRPO), section 3.2.
    """
    shapes.check_number("length", length, above=0)
    sums, _, some = _rows(values, mask, rows)
    return mean.Mean(total=jnp.sum(sums) / length, weight=jnp.sum(some))


def group_mean(values: jax.Array, mask: jax.Array | None = None, *, group_size: int) -> mean.Mean:
    """Mean over prompts of the token mean over all samples of a prompt.

    Rows lie prompt by prompt: rows 0 .. group_size - 1 are of the first one.

    Args, Raises: as `token_mean`; B is not a multiple of group_size.
    Reference: Yu et al. (2025, DAPO), equation 8.
    """
    sums, tokens, _ = _rows(values, mask)
    if group_size < 1 or sums.shape[0] % group_size:
        raise ValueError(f"group_size must divide B = {sums.shape[0]}; got {group_size}.")
    sums = jnp.sum(sums.reshape(-1, group_size), axis=-1)
    tokens = jnp.sum(tokens.reshape(-1, group_size), axis=-1)
    some = (tokens > 0).astype(sums.dtype)
    return mean.Mean(total=jnp.sum(sums / jnp.maximum(tokens, 1.0)), weight=jnp.sum(some))
