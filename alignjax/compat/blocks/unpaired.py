"""Losses on single answers, desirable or not, from token log-probabilities.

Arrays: logprobs, reference_logprobs [B, T] in nats; mask [B, T]; desirable [B]; optional
answer_mask [B]. KTO: mismatched_logprobs, reference_mismatched_logprobs, mismatched_mask [B, T], of
answers set against other prompts, or reference_point, a scalar in nats, in their place. BCO: shift,
a scalar in reward units; desirable_probability [B] if udm. u: an answer's log-ratio, a sum.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.recipe import Arrays, Terms
from alignjax.core import mean


def log_ratio(arrays: Arrays, name: str = "") -> jax.Array:
    """log pi - log ref of the answers, or of those called `name`, [B], nats."""
    mask = arrays[f"{name}mask"]
    policy = losses.score_sum(arrays[f"{name}logprobs"], mask)
    reference = losses.score_sum(arrays[f"reference_{name}logprobs"], mask)
    return policy - jax.lax.stop_gradient(reference)


def answer_mask(arrays: Arrays, like: jax.Array) -> Any:
    """[B]: which answers count; all unless the arrays say otherwise."""
    return arrays["answer_mask"] if "answer_mask" in arrays else jnp.ones_like(like, dtype=bool)


def reference_point(arrays: Arrays) -> Any:
    """KTO's z0, a scalar in nats: as given, or of this batch's mismatched answers."""
    if "reference_point" in arrays:
        return arrays["reference_point"]
    mismatched = log_ratio(arrays, "mismatched_")
    return losses.kto_reference_point(mismatched, answer_mask(arrays, mismatched))


def reduced(per_answer: jax.Array, arrays: Arrays) -> Terms:
    """The mean over answers of both kinds."""
    return {"loss": mean.masked(per_answer, answer_mask(arrays, per_answer))}


def reduced_by_kind(per_answer: jax.Array, arrays: Arrays) -> Terms:
    """The mean over desirable answers, and that over undesirable ones."""
    keep, good = answer_mask(arrays, per_answer) != 0, jnp.asarray(arrays["desirable"]) != 0
    return {
        "desirable": mean.masked(per_answer, keep & good),
        "undesirable": mean.masked(per_answer, keep & ~good),
    }


def kto(arrays: Arrays, **options: Any) -> Terms:
    """`compute` of `losses.kto`."""
    ratio = log_ratio(arrays)
    return reduced(
        losses.kto(ratio, arrays["desirable"], reference_point(arrays), **options), arrays
    )


def kto_at_zero(arrays: Arrays, **options: Any) -> Terms:
    """`compute` of `losses.kto` with z0 = 0: APO-zero on single answers."""
    return reduced(losses.kto(log_ratio(arrays), arrays["desirable"], 0.0, **options), arrays)


def bco(
    reduction: Callable[[jax.Array, Arrays], Terms],
) -> Callable[..., Terms]:
    """`compute` of `losses.bco`, undesirable answers times their UDM weight if asked."""

    def compute(
        arrays: Arrays, *, beta: float, udm: bool, minimum_weight: float, maximum_weight: float
    ) -> Terms:
        loss = losses.bco(log_ratio(arrays), arrays["desirable"], arrays["shift"], beta=beta)
        if udm:
            weight = losses.udm_weight(
                arrays["desirable_probability"], minimum=minimum_weight, maximum=maximum_weight
            )
            loss = loss * jnp.where(jnp.asarray(arrays["desirable"]) != 0, 1.0, weight)
        return reduction(loss, arrays)

    return compute
