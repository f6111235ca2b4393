"""Losses for groups who differ, and for what a rater's hidden context leaves open."""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs


def _members(groups: jax.Array, count: int, mask: jax.Array | None) -> jax.Array:
    """[B, G] booleans: which row is of which group; a masked row is of none."""
    shapes.check("groups", groups, "B")
    keep = inputs.mask_of(mask, jnp.asarray(groups), "B")
    return keep[:, None] & (groups[:, None] == jnp.arange(count)[None, :])


def group_weights(
    groups: jax.Array, weights: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Weights of rows, [B], that give every group its own weight however many rows it has.

    q_g N / n_g for a row of group g, n_g its rows of the N counted: the mean over rows of weight
    times loss is sum_g q_g mean_g. 0 for masked rows; 1 for all where there is one group. No
    gradient.

    Args:
      groups: [B] int in 0 .. G - 1. weights: [G] q >= 0 with sum 1. mask: [B], 1 where counted.

    Raises:
      ValueError: shapes differ.

    Reference: Sagawa et al. (2020), arXiv 1911.08731.
    """
    shapes.check("weights", weights, "G")
    members = _members(groups, weights.shape[0], mask)
    each = inputs.count(members, axis=0)
    total = jnp.sum(members.astype(jnp.float32))
    own = jax.lax.stop_gradient(inputs.as_float(weights)) * (total / each)
    return jnp.sum(jnp.where(members, own[None, :], 0.0), axis=1)


def group_robust(
    losses: jax.Array, groups: jax.Array, weights: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Losses times `group_weights`, [B]: their mean is sum_g q_g mean_g, the inner step of min-max.

    q is moved towards the groups that lose most by `maximin_weights` of minus their mean losses. On
    one comparison that divides the groups the min-max is a logit of 0, whatever their shares: the
    robust policy abstains where they conflict.

    Args:
      losses: [B] float. groups, weights, mask: as in `group_weights`.

    Raises:
      ValueError: shapes differ.

    Reference: Ramesh et al. (2024), arXiv 2405.20304; Sagawa et al. (2020), arXiv 1911.08731.
    """
    (losses,) = inputs.arrays("B", losses=losses)
    shapes.check("groups", groups, "B", {"B": losses.shape[0]})
    rows = group_weights(groups, weights, mask)
    return jnp.where(rows != 0, losses, 0.0) * rows


def maximin_weights(
    weights: jax.Array, utilities: jax.Array, present: jax.Array | None = None, *, step_size: float
) -> jax.Array:
    """Weights of groups after a step towards the worst off, [G]: q_g exp(-step u_g), renormalised.

    An absent group keeps its weight: the present ones share what they had together. So q follows
    utilities, not which groups a batch happens to hold. No gradient.

    Args:
      weights: [G] float, q >= 0 with sum 1. utilities: [G] float, minus the losses for a loss.
      present: [G], 1 where a utility is known; None for all. step_size: > 0, per unit of utility.

    Raises:
      ValueError: shapes differ, step_size <= 0 or not finite.

    Reference: Chakraborty et al. (2024, MaxMin-RLHF), arXiv 2402.08925; exponentiated gradient:
    Sagawa et al. (2020), arXiv 1911.08731.
    """
    shapes.check_number("step_size", step_size, above=0)
    q, utility = inputs.arrays("G", weights=weights, utilities=utilities)
    known = inputs.mask_of(present, q, "G", "present")
    lowest = jnp.min(jnp.where(known, utility, jnp.inf))
    moved = q * jnp.exp(jnp.where(known, step_size * (lowest - utility), 0.0))
    before, after = (jnp.sum(jnp.where(known, x, 0.0)) for x in (q, moved))
    share = before / jnp.where(after > 0, after, 1.0)
    return jax.lax.stop_gradient(jnp.where(known, moved * share, q))


def distributional(
    chosen_means: jax.Array,
    rejected_means: jax.Array,
    chosen_log_sds: jax.Array,
    rejected_log_sds: jax.Array,
) -> jax.Array:
    """Negative log-likelihood of comparisons of normal utilities, [B]: -log Phi(dm / s).

    dm is the difference of the means, s^2 = sd_w^2 + sd_l^2: what raters disagree on by a context
    that nobody sees. Phi is exact, not a logistic in its place.

    Args:
      chosen_means, rejected_means: [B] float, reward units.
      chosen_log_sds, rejected_log_sds: [B] float, logarithms of standard deviations.

    Raises:
      ValueError: shapes differ.

    Reference: Siththaranjan et al. (2023), arXiv 2312.08358.
    """
    better, worse, one, other = inputs.arrays(
        "B",
        chosen_means=chosen_means,
        rejected_means=rejected_means,
        chosen_log_sds=chosen_log_sds,
        rejected_log_sds=rejected_log_sds,
    )
    log_scale = 0.5 * jnp.logaddexp(2 * one, 2 * other)
    # Between +-30 standard deviations: beyond, the logarithm of Phi overflows in fp32 squares.
    z = (better - worse) * jnp.exp(-jnp.maximum(log_scale, -20.0))
    return -jax.scipy.special.log_ndtr(jnp.clip(z, -1e6, 1e6))


def distributional_categorical(chosen_logits: jax.Array, rejected_logits: jax.Array) -> jax.Array:
    """Negative log-likelihood of comparisons of utilities on N ordered levels, [B].

    -log(sum_{i > j} p_i q_j + sum_i p_i q_i / 2), p and q the softmax of the two answers' logits:
    equal levels are decided by a coin.

    Args:
      chosen_logits, rejected_logits: [B, N] float, of levels in ascending order.

    Raises:
      ValueError: shapes differ.

    Reference: Siththaranjan et al. (2023), arXiv 2312.08358.
    """
    better, worse = inputs.arrays(
        "B N", chosen_logits=chosen_logits, rejected_logits=rejected_logits
    )
    log_p, log_q = (jax.nn.log_softmax(x, axis=-1) for x in (better, worse))
    levels = jnp.arange(better.shape[1])
    above, equal = levels[:, None] > levels[None, :], levels[:, None] == levels[None, :]
    weight = jnp.where(above, 0.0, jnp.where(equal, -jnp.log(2.0), -jnp.inf))
    pairs = log_p[:, :, None] + log_q[:, None, :] + weight[None]
    return -jax.nn.logsumexp(pairs, axis=(1, 2))
