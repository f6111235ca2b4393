"""Policy losses with a choice of reduction, and advantages, of code bases that share their forms.

Arrays as in policy.py. Losses take optional token_weights [B, T]: what a sampler correction gave.
Advantages take rewards [P, N] (N samples of each of P prompts, in the row order of [B, T] arrays,
B = P N) or [B, T] (per token), values [B, T], mask [B, T]; they return arrays.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import policy
from alignjax.compat.recipe import Arrays, Terms
from alignjax.core import mean, shapes

REDUCTIONS = ("token_mean", "row_mean", "row_sum", "row_fixed")


# --- losses ---
def reduced(
    values: jax.Array, arrays: Arrays, *, reduction: str, length: float | None = None
) -> mean.Mean:
    """[B, T] to a mean over tokens, or over the rows that have any.

    reduction: a name of `losses`; row_fixed divides the sum of a row by `length`, by the padded
    width T if that is None.
    """
    shapes.check_choice("reduction", reduction, REDUCTIONS)
    mask = arrays["mask"]
    if reduction == "row_fixed":
        width = jnp.shape(mask)[1] if length is None else length
        return losses.row_fixed(values, mask, length=width)
    return {
        "token_mean": losses.token_mean,
        "row_mean": losses.row_mean,
        "row_sum": losses.row_sum,
    }[reduction](values, mask)


def weighted(values: jax.Array, arrays: Arrays) -> jax.Array:
    """Token losses times token_weights, if there are any; no gradient into the weights."""
    if "token_weights" not in arrays:
        return values
    return values * jax.lax.stop_gradient(jnp.asarray(arrays["token_weights"]))


def surrogate(loss: Callable[..., jax.Array]) -> Callable[..., Terms]:
    """`compute` of loss(logprobs, old_logprobs, advantages, mask, **options), reduced by name."""

    def compute(
        arrays: Arrays, *, reduction: str, length: float | None = None, **options: Any
    ) -> Terms:
        per_token = weighted(loss(*policy.inputs(arrays), **options), arrays)
        return {"loss": reduced(per_token, arrays, reduction=reduction, length=length)}

    return compute


def reinforce(arrays: Arrays, *, reduction: str, length: float | None = None) -> Terms:
    """`compute` of `losses.reinforce`."""
    given = arrays["logprobs"], arrays["advantages"], arrays["mask"]
    per_token = weighted(losses.reinforce(*given), arrays)
    return {"loss": reduced(per_token, arrays, reduction=reduction, length=length)}


def value_clip(
    arrays: Arrays, *, clip: float | None, reduction: str, length: float | None = None
) -> Terms:
    """`compute` of `losses.value_clip` on values, old_values, returns [B, T]."""
    given = [arrays[name] for name in ("values", "old_values", "returns", "mask")]
    per_token = losses.value_clip(*given, clip=clip)
    return {"loss": reduced(per_token, arrays, reduction=reduction, length=length)}


def entropy_bonus(arrays: Arrays, *, reduction: str, length: float | None = None) -> Terms:
    """`compute` of `losses.entropy_bonus` on entropy [B, T], with weight 1."""
    per_token = losses.entropy_bonus(arrays["entropy"], arrays["mask"])
    return {"entropy": reduced(per_token, arrays, reduction=reduction, length=length)}


# --- KL ---
def within(x: jax.Array, cap: float | None) -> jax.Array:
    """`x` kept within +-cap, without gradient beyond; None: as it is."""
    return x if cap is None else jnp.clip(x, -cap, cap)


def kl_values(
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
    given = arrays["logprobs"], arrays["reference_logprobs"], arrays["mask"]
    if not exact_gradient:
        return within(losses.kl_loss(*given, estimator=estimator), cap)
    carrier = losses.k2(*given)
    if maximum_ratio is not None:
        ratio = losses.importance_ratio(given[0], policy.old_logprobs(arrays), given[2])
        carrier = carrier * jax.lax.stop_gradient(jnp.minimum(ratio, maximum_ratio))
    value = within(losses.kl_penalty(*given, estimator=estimator), cap)
    return value + carrier - jax.lax.stop_gradient(carrier)


def kl_penalty(arrays: Arrays, *, estimator: str, cap: float | None = None) -> jax.Array:
    """KL to the reference per token, [B, T], nats, without gradient: for rewards."""
    given = arrays["logprobs"], arrays["reference_logprobs"], arrays["mask"]
    return within(losses.kl_penalty(*given, estimator=estimator), cap)


def adaptive_kl(arrays: Arrays, *, target: float | None, horizon: float) -> jax.Array:
    """`compute` of `losses.adaptive_kl` on coefficient, observed, samples; fixed at target None."""
    given = [arrays[name] for name in ("coefficient", "observed", "samples")]
    if target is None:
        return jnp.asarray(given[0])
    return losses.adaptive_kl(*given, target=target, horizon=horizon)


# --- advantages ---
def at_last_token(per_row: jax.Array, mask: jax.Array) -> jax.Array:
    """Values [B] (or [P, N]) at the last counted token of their rows, [B, T], 0 elsewhere."""
    keep = jnp.asarray(mask) != 0
    later = jnp.cumsum(keep[:, ::-1], axis=-1)[:, ::-1]
    return jnp.where(keep & (later == 1), jnp.reshape(per_row, (-1, 1)), 0.0)


def over_tokens(per_sample: jax.Array, mask: jax.Array) -> jax.Array:
    """Values [P, N] at all counted tokens of their rows, [B, T], 0 elsewhere."""
    return jnp.where(jnp.asarray(mask) != 0, jnp.reshape(per_sample, (-1, 1)), 0.0)


def gae(arrays: Arrays, **options: float) -> jax.Array:
    """[B, T]: advantages of `losses.gae`, whitened (variance over n - 1)."""
    return losses.whiten(_gae(arrays, **options)[0], arrays["mask"], unbiased=True)


def returns(arrays: Arrays, **options: float) -> jax.Array:
    """[B, T]: returns of `losses.gae`."""
    return _gae(arrays, **options)[1]


def _gae(arrays: Arrays, *, discount: float, decay: float) -> tuple[jax.Array, jax.Array]:
    given = [arrays[name] for name in ("rewards", "values", "mask")]
    return losses.gae(*given, discount=discount, decay=decay)


def group_relative(arrays: Arrays, *, scale: bool, eps: float) -> jax.Array:
    """[P, N]: `losses.group_relative`, standard deviations over N - 1."""
    return losses.group_relative(arrays["rewards"], scale=scale, eps=eps)


def leave_one_out(arrays: Arrays) -> jax.Array:
    """[P, N]: `losses.leave_one_out`."""
    return losses.leave_one_out(arrays["rewards"])
