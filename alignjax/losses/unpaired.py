"""Losses on single answers marked desirable or not, with a reference model; one per answer."""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs, links


def _signed(logratio: jax.Array, desirable: jax.Array, beta: float) -> tuple[jax.Array, jax.Array]:
    """(log-ratio in fp32, desirable as booleans), checked."""
    shapes.check_number("beta", beta, above=0)
    (logratio,) = inputs.arrays("B", logratio=logratio)
    shapes.check("desirable", desirable, "B", {"B": logratio.shape[0]})
    return logratio, inputs.mask_of(desirable, logratio, "B", "desirable")


def kto_reference_point(mismatched_logratio: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """z0, a scalar >= 0 in nats: max(0, mean log-ratio of answers set against other prompts).

    An estimate of KL(pi; ref) over the whole batch; no gradient.

    Args:
      mismatched_logratio: [B] float, nats: log pi(y'|x) / ref(y'|x) with y' of another prompt.
      mask: [B], 1 where counted; None counts all.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Ethayarajh et al. (2024, KTO), arXiv 2402.01306.
    """
    keep, x = inputs.masked("B", mask, mismatched_logratio=mismatched_logratio)
    return jax.lax.stop_gradient(jnp.maximum(0.0, jnp.sum(x) / inputs.count(keep)))


def kto(
    logratio: jax.Array,
    desirable: jax.Array,
    reference_point: jax.Array | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> jax.Array:
    """Kahneman-Tversky optimisation, [B]: w_D sig(beta (z0 - u)), or w_U sig(beta (u - z0)).

    That is w (1 - sig(+-beta (u - z0))), u = logratio. No gradient flows into z0.

    Args:
      logratio: [B] float, nats, of the answer.
      desirable: [B] booleans or 0/1.
      reference_point: z0, a scalar in nats, from `kto_reference_point`.
      beta: > 0.
      desirable_weight, undesirable_weight: > 0; best with w_D n_D / (w_U n_U) from 1 to 1.5.

    Returns:
      [B] fp32 losses; half the weight where policy and reference agree and z0 = 0.

    Raises:
      ValueError: shapes differ, reference_point not a scalar, beta or a weight <= 0.

    Reference: Ethayarajh et al. (2024, KTO), arXiv 2402.01306.
    """
    shapes.check_number("desirable_weight", desirable_weight, above=0)
    shapes.check_number("undesirable_weight", undesirable_weight, above=0)
    shapes.check("reference_point", reference_point, "")
    u, good = _signed(logratio, desirable, beta)
    distance = beta * (u - jax.lax.stop_gradient(inputs.as_float(reference_point)))
    return jnp.where(
        good,
        desirable_weight * jax.nn.sigmoid(-distance),
        undesirable_weight * jax.nn.sigmoid(distance),
    )


def apo_zero_unpaired(logratio: jax.Array, desirable: jax.Array, *, beta: float) -> jax.Array:
    """Anchored preference optimisation on single answers, [B]: 1 - sig(beta u), or sig(beta u).

    KTO with z0 = 0 and equal weights.

    Raises:
      ValueError: shapes differ, beta <= 0.

    Reference: D'Oosterlinck et al. (2024, APO), arXiv 2408.06266.
    """
    return kto(logratio, desirable, 0.0, beta=beta)


def bco(
    logratio: jax.Array, desirable: jax.Array, shift: jax.Array | float, *, beta: float
) -> jax.Array:
    """Binary classifier optimisation, [B]: l(beta u - shift) if desirable, else l(shift - beta u).

    l(z) = -log sigmoid(z). No gradient flows into the shift.

    Args:
      logratio: [B] float, nats, of the answer.
      desirable: [B] booleans or 0/1.
      shift: delta, a scalar in reward units: half the sum of the mean rewards beta u of desirable
        and of undesirable answers, each kept by `running_mean`.
      beta: > 0.

    Returns:
      [B] fp32 losses; multiply those of undesirable answers by `udm_weight` where the two kinds of
      answer come from different prompts.

    Raises:
      ValueError: shapes differ, shift not a scalar, beta <= 0.

    Reference: Jung et al. (2024, BCO), arXiv 2404.04656.
    """
    shapes.check("shift", shift, "")
    u, good = _signed(logratio, desirable, beta)
    distance = beta * u - jax.lax.stop_gradient(inputs.as_float(shift))
    return links.logistic(jnp.where(good, distance, -distance))


def udm_weight(
    desirable_probability: jax.Array, *, minimum: float = 0.5, maximum: float = 10.0
) -> jax.Array:
    """Weight of undesirable answers under UDM, [B]: p / (1 - p) within bounds.

    Args:
      desirable_probability: [B] float in [0, 1]: p(desirable | prompt), by a prompt classifier.
      minimum, maximum: bounds of the weight, 0 < minimum <= maximum.

    Raises:
      ValueError: not [B], bounds out of order.

    Reference: Jung et al. (2024, BCO), arXiv 2404.04656.
    """
    shapes.check_number("minimum", minimum, above=0)
    shapes.check_number("maximum", maximum, minimum=minimum)
    (p,) = inputs.arrays("B", desirable_probability=desirable_probability)
    odds = p / jnp.maximum(1.0 - p, 1e-6)
    return jax.lax.stop_gradient(jnp.clip(odds, minimum, maximum))


def running_mean(
    mean: jax.Array | float,
    weight: jax.Array | float,
    values: jax.Array,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(mean, weight) with the counted entries of `values` [B] joined in; no gradient.

    Start from (0.0, 0.0) and carry the result from step to step.

    Raises:
      ValueError: shapes differ, mask not 0/1.
    """
    for name, x in {"mean": mean, "weight": weight}.items():
        shapes.check(name, x, "")
    keep, x = inputs.masked("B", mask, values=values)
    mean, weight = inputs.as_float(mean), inputs.as_float(weight)
    added = jnp.sum(keep.astype(x.dtype))
    total = weight + added
    moved = mean + (jnp.sum(x) - added * mean) / jnp.maximum(total, 1.0)
    return jax.lax.stop_gradient((moved, total))
