"""The KL divergence to a reference at each token: as a loss, and as a penalty in rewards.

Arrays: logprobs, reference_logprobs, optional old_logprobs [B, T] in nats; mask [B, T].
"""

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays

CAP = 10.0  # nats a token, in OpenRLHF and verl
MAXIMUM_RATIO = 10.0  # of OpenRLHF's KL whose gradient is exact


def old_logprobs(arrays: Arrays) -> jax.Array:
    """Those of the policy that sampled; the present ones if the batch holds none."""
    name = "old_logprobs" if "old_logprobs" in arrays else "logprobs"
    return jax.lax.stop_gradient(jnp.asarray(arrays[name]))


def within(x: jax.Array, cap: float | None) -> jax.Array:
    """`x` kept within +-cap, without gradient beyond; None: as it is."""
    return x if cap is None else jnp.clip(x, -cap, cap)


def values(
    arrays: Arrays,
    *,
    estimator: str,
    cap: float | None,
    exact_gradient: bool = False,
    maximum_ratio: float | None = None,
) -> jax.Array:
    """KL to the reference per token, [B, T], nats, as a loss.

    exact_gradient: keep the estimator's value, with the gradient of k2: in expectation that of
    KL(pi; ref). Times rho <= maximum_ratio without gradient, unless that is None (off policy).
    """
    both = arrays["logprobs"], arrays["reference_logprobs"], arrays["mask"]
    if not exact_gradient:
        return within(losses.kl_loss(*both, estimator=estimator), cap)
    carrier = losses.k2(*both)
    if maximum_ratio is not None:
        ratio = losses.importance_ratio(both[0], old_logprobs(arrays), both[2])
        carrier = carrier * jax.lax.stop_gradient(jnp.minimum(ratio, maximum_ratio))
    value = within(losses.kl_penalty(*both, estimator=estimator), cap)
    return value + carrier - jax.lax.stop_gradient(carrier)


def penalty(arrays: Arrays, *, estimator: str, cap: float | None = None) -> jax.Array:
    """KL to the reference per token, [B, T], nats, without gradient: for rewards."""
    both = arrays["logprobs"], arrays["reference_logprobs"], arrays["mask"]
    return within(losses.kl_penalty(*both, estimator=estimator), cap)


def verl_cap(estimator: str) -> float | None:
    """verl cuts k3 alone."""
    return CAP if estimator == "k3" else None
