"""Links: functions of one scaled margin z, of any shape, that preference losses are built from.

A link turns "how much better is the chosen answer, in units of the model" into a loss. All are
finite in value and gradient for any finite z.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes


def logistic(z: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """-(1 - e) log sigmoid(z) - e log sigmoid(-z), with e = label_smoothing in [0, 0.5).

    With e > 0 the optimum is finite: z = log((1 - e) / e) (Mitchell 2023, a note on DPO with noisy
    preferences).

    Raises:
      ValueError: label_smoothing outside [0, 0.5).
    """
    e = shapes.check_number("label_smoothing", label_smoothing, minimum=0, below=0.5)
    return -(1 - e) * jax.nn.log_sigmoid(z) - e * jax.nn.log_sigmoid(-z)


def unbiased_logistic(z: jax.Array, *, flip_rate: float) -> jax.Array:
    """[(1 - e) l(z) - e l(-z)] / (1 - 2 e) with l(z) = -log sigmoid(z), e = flip_rate in [0, 0.5).

    Its mean over labels flipped with probability e is l(z) of the clean label (Natarajan et al.
    2013; Chowdhury et al. 2024). It may be negative.

    Raises:
      ValueError: flip_rate outside [0, 0.5).
    """
    e = shapes.check_number("flip_rate", flip_rate, minimum=0, below=0.5)
    return (e * jax.nn.log_sigmoid(-z) - (1 - e) * jax.nn.log_sigmoid(z)) / (1 - 2 * e)


def hinge_at(z: jax.Array, *, target_margin: float = 1.0) -> jax.Array:
    """max(0, target_margin - z)."""
    return jnp.maximum(0.0, shapes.check_number("target_margin", target_margin, above=0) - z)


def squared(difference: jax.Array, *, target: float) -> jax.Array:
    """(difference - target)^2."""
    return jnp.square(difference - shapes.check_number("target", target))
