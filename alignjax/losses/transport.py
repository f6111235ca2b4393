"""Losses on the distribution of rewards instead of on single pairs: they sort the whole batch.

The result for one pair depends on the batch, so micro-batches change the value; the output is in
sorted order.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs, links


def _sorted_gap(x: jax.Array, y: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """(sort(x) - sort(y), which of its entries count): masked entries go last and count not."""
    keep = inputs.mask_of(mask, x, "B")
    keep, x, y = (inputs.gathered(v) for v in (keep, x, y))
    last = jnp.finfo(x.dtype).max
    gap = jnp.sort(jnp.where(keep, x, last)) - jnp.sort(jnp.where(keep, y, last))
    return gap, ~jnp.sort(~keep)


def _loss(
    x: jax.Array, y: jax.Array, mask: jax.Array | None, beta: float, label_smoothing: float
) -> jax.Array:
    shapes.check_number("beta", beta, above=0)
    gap, counted = _sorted_gap(x, y, mask)
    return jnp.where(counted, links.logistic(beta * gap, label_smoothing=label_smoothing), 0.0)


def aot(
    chosen_logprobs: jax.Array,
    rejected_logprobs: jax.Array,
    reference_chosen_logprobs: jax.Array,
    reference_rejected_logprobs: jax.Array,
    mask: jax.Array | None = None,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Alignment via optimal transport, paired, [B]: l(beta (sort(policy) - sort(reference))).

    policy and reference are the margins log p(y_w) - log p(y_l) under each, sorted over the batch:
    the policy's margins should dominate the reference's as a distribution.

    Args:
      chosen_logprobs ... reference_rejected_logprobs: [B] float, nats, summed over tokens.
      mask: [B], 1 for pairs that count; None counts all.
      beta: > 0.
      label_smoothing: in [0, 0.5).

    Returns:
      [B] fp32 losses in sorted order, those that do not count last and 0.

    Raises:
      ValueError: shapes differ, beta <= 0, label_smoothing outside [0, 0.5), mask not 0/1.

    Reference: Melnyk et al. (2024, AOT), arXiv 2406.05882 (paired).
    """
    chosen, rejected, reference_chosen, reference_rejected = inputs.arrays(
        "B",
        chosen_logprobs=chosen_logprobs,
        rejected_logprobs=rejected_logprobs,
        reference_chosen_logprobs=reference_chosen_logprobs,
        reference_rejected_logprobs=reference_rejected_logprobs,
    )
    return _loss(
        chosen - rejected, reference_chosen - reference_rejected, mask, beta, label_smoothing
    )


def aot_unpaired(
    chosen_logratio: jax.Array,
    rejected_logratio: jax.Array,
    mask: jax.Array | None = None,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Alignment via optimal transport, unpaired, [B]: logistic(beta (sort(a) - sort(b))).

    a, b: log-ratios of chosen and of rejected answers, which need not belong together.

    Args, Returns, Raises: as `aot`, with log-ratios [B] in nats.

    Reference: Melnyk et al. (2024, AOT), arXiv 2406.05882 (unpaired).
    """
    chosen, rejected = inputs.arrays(
        "B", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    return _loss(chosen, rejected, mask, beta, label_smoothing)
