"""Losses on single answers, desirable or not: score o link o weight o reduction.

Arrays: logprobs, reference_logprobs [B, T] in nats; mask [B, T]; desirable [B]; optional
answer_mask [B]. KTO: mismatched_logprobs, reference_mismatched_logprobs, mismatched_mask [B, T], of
answers set against other prompts, or reference_point, a scalar in nats, in their place. BCO: shift,
a scalar in reward units; desirable_probability [B] if udm. u: an answer's log-ratio, a sum.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays, Terms
from alignjax.compat.blocks import options as settings
from alignjax.core import mean, shapes

if TYPE_CHECKING:
    from alignjax.compat.recipe import Recipe


def log_ratio(arrays: Arrays, text: str = "") -> jax.Array:
    """log pi - log ref of the answers, or of those called `text`, [B], nats."""
    mask = arrays[f"{text}mask"]
    policy = losses.score_sum(arrays[f"{text}logprobs"], mask)
    reference = losses.score_sum(arrays[f"reference_{text}logprobs"], mask)
    return policy - jax.lax.stop_gradient(reference)


def answer_mask(arrays: Arrays, like: jax.Array) -> Any:
    """[B]: which answers count; all unless the arrays say otherwise."""
    return arrays["answer_mask"] if "answer_mask" in arrays else jnp.ones_like(like, dtype=bool)


# --- links: the loss of an answer, [B] ---
def reference_point(arrays: Arrays) -> Any:
    """KTO's z0, a scalar in nats: that of the arrays, or of their mismatched answers."""
    if "reference_point" in arrays:
        return arrays["reference_point"]
    mismatched = log_ratio(arrays, "mismatched_")
    return losses.kto_reference_point(mismatched, answer_mask(arrays, mismatched))


def kto(
    ratio: jax.Array,
    arrays: Arrays,
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> jax.Array:
    """`losses.kto`."""
    return losses.kto(
        ratio,
        arrays["desirable"],
        reference_point(arrays),
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )


def kto_at_zero(
    ratio: jax.Array,
    arrays: Arrays,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> jax.Array:
    """`losses.kto` with z0 = 0: APO-zero on single answers."""
    return kto(
        ratio,
        arrays.replace(reference_point=0.0),
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )


def bco(ratio: jax.Array, arrays: Arrays, *, beta: float) -> jax.Array:
    """`losses.bco` with the array `shift`."""
    return losses.bco(ratio, arrays["desirable"], arrays["shift"], beta=beta)


LINKS: Mapping[str, Callable[..., jax.Array]] = {"bco": bco, "kto": kto, "kto_at_zero": kto_at_zero}


# --- weights of answers, [B], without gradient ---
def no_weight(per_answer: jax.Array, arrays: Arrays) -> jax.Array:
    """All answers alike."""
    return per_answer


def udm(
    per_answer: jax.Array,
    arrays: Arrays,
    *,
    udm: bool,
    minimum_weight: float,
    maximum_weight: float,
) -> jax.Array:
    """Undesirable answers times their UDM weight, if asked."""
    if not udm:
        return per_answer
    weight = losses.udm_weight(
        arrays["desirable_probability"], minimum=minimum_weight, maximum=maximum_weight
    )
    return per_answer * jnp.where(jnp.asarray(arrays["desirable"]) != 0, 1.0, weight)


WEIGHTS: Mapping[str, Callable[..., jax.Array]] = {"": no_weight, "udm": udm}


# --- reductions ---
def over_answers(per_answer: jax.Array, arrays: Arrays, term: str) -> Terms:
    """The mean over answers of both kinds."""
    return {term: mean.masked(per_answer, answer_mask(arrays, per_answer))}


def over_classes(per_answer: jax.Array, arrays: Arrays, term: str) -> Terms:
    """The mean over desirable answers, and that over undesirable ones."""
    keep, good = answer_mask(arrays, per_answer) != 0, jnp.asarray(arrays["desirable"]) != 0
    return {
        "desirable": mean.masked(per_answer, keep & good),
        "undesirable": mean.masked(per_answer, keep & ~good),
    }


REDUCTIONS: Mapping[str, Callable[..., Terms]] = {
    "mean over answers": over_answers,
    "mean over each kind": over_classes,
}


# --- what a recipe of single answers computes ---
def score(recipe: "Recipe", arrays: Arrays) -> jax.Array:
    """u, [B], nats."""
    shapes.check_choice("score", recipe.score, ("sum",))
    return log_ratio(arrays)


def compute(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> Terms:
    """{term: Mean}."""
    link = settings.block(LINKS, "link", recipe.link)
    weight = settings.block(WEIGHTS, "weight", recipe.weight)
    reduce = settings.block(REDUCTIONS, "reduction", recipe.reduction)
    per_answer = link(score(recipe, arrays), arrays, **settings.accepted(link, options))
    per_answer = weight(per_answer, arrays, **settings.accepted(weight, options))
    return reduce(per_answer, arrays, recipe.term)


def rewards(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> jax.Array:
    """beta u, [B]."""
    return jax.lax.stop_gradient(options["beta"] * score(recipe, arrays))
