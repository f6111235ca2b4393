"""f-divergences: functions of a log-ratio x = log pi / ref that replace x in a preference loss.

DPO with divergence f uses f'(pi / ref) in place of log(pi / ref) (Wang et al. 2023, f-DPO, theorem
1). Each function here is f' as a function of x, shifted to 0 at x = 0 (a shift cancels in a pair):

    dpo(js_divergence(chosen_logratio), js_divergence(rejected_logratio), beta=0.1)

All keep the shape of x, rise with x and have slope 1 (JS: 1/2) at 0.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs

MAX_EXPONENT = 40.0  # e^40 = 2.4e17: squared, and times a step size, it still fits fp32


def power(x: jax.Array, alpha: float) -> jax.Array:
    """(1 - exp(-alpha x)) / alpha, and x at alpha = 0; exponents above 40 are cut (no gradient)."""
    x = inputs.as_float(x)
    if abs(alpha) < 1e-6:
        return x
    return -jnp.expm1(jnp.minimum(-alpha * x, MAX_EXPONENT)) / alpha


def reverse_kl_divergence(x: jax.Array) -> jax.Array:
    """x: KL(pi; ref), the divergence of DPO."""
    return inputs.as_float(x)


def forward_kl_divergence(x: jax.Array) -> jax.Array:
    """1 - exp(-x): KL(ref; pi). f(u) = -log u, f'(u) = -1 / u. Exponents above 40 are cut."""
    return power(x, 1.0)


def js_divergence(x: jax.Array) -> jax.Array:
    """log(2 u / (1 + u)) = log 2 + log sigmoid(x), u = e^x: Jensen-Shannon.

    f(u) = u log u - (u + 1) log((u + 1) / 2).
    """
    return jnp.log(2.0) + jax.nn.log_sigmoid(inputs.as_float(x))


def alpha_divergence(x: jax.Array, *, alpha: float) -> jax.Array:
    """(1 - exp(-alpha x)) / alpha: between reverse KL (alpha = 0) and forward KL (alpha = 1).

    f'(u) = (1 - u^-alpha) / alpha. Exponents above 40 are cut.

    Raises:
      ValueError: alpha outside [0, 1].
    """
    return power(x, shapes.check_number("alpha", alpha, minimum=0, maximum=1))
