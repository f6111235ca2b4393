"""Policy-gradient losses from token log-probabilities: link(ratio) o weight o reduction, and terms.

Arrays: logprobs, and where used old_logprobs (absent: the policy itself, without gradient),
reference_logprobs, sampler_logprobs (NaN where missing), [B, T] in nats; advantages [B] (or [B, T]
for token ratios); mask [B, T]; entropy [B, T] in nats; optional token_weights [B, T], what a
sampler correction gave, and row_mask [B] (`reductions`). Critics: values, old_values, returns
[B, T]. rho: pi / old of a token; s: of a response, to the power 1 / |y|.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays, Terms
from alignjax.compat.blocks import kl, policy_links, reductions
from alignjax.compat.blocks import options as settings
from alignjax.core import mean, shapes

if TYPE_CHECKING:
    from alignjax.compat.recipe import Recipe

Reduce = Callable[[jax.Array, Arrays], mean.Mean]


# --- weights on losses, without gradient ---
def no_weight(values: jax.Array, arrays: Arrays) -> jax.Array:
    """All tokens alike."""
    return values


def token_weights(values: jax.Array, arrays: Arrays) -> jax.Array:
    """Times the array token_weights, if there is one."""
    if "token_weights" not in arrays:
        return values
    weights = jax.lax.stop_gradient(jnp.asarray(arrays["token_weights"]))
    return reductions.over_time(values, arrays) * weights


def entropy_mask(arrays: Arrays, share: float) -> Any:
    """The mask, or its tokens in the top `share` of entropies: those at their quantile or above."""
    if share == 1.0:
        return arrays["mask"]
    return losses.above_quantile(arrays["entropy"], arrays["mask"], quantile=1.0 - share)


def token_filter(
    values: jax.Array,
    arrays: Arrays,
    *,
    entropy_share: float,
    off_policy_threshold: float | None,
) -> jax.Array:
    """1 for the tokens whose policy loss counts, 0 for the others (TRL)."""
    keep = jnp.asarray(entropy_mask(arrays, entropy_share), jnp.float32)
    if off_policy_threshold is not None:
        sampled = "sampler_logprobs" in arrays
        others = arrays["sampler_logprobs"] if sampled else kl.old_logprobs(arrays)
        rows = arrays["logprobs"], others, arrays["advantages"], arrays["mask"]
        keep = keep * losses.off_policy_keep(*rows, threshold=off_policy_threshold)[:, None]
    return reductions.over_time(values, arrays) * keep


def token_filter_and_sampler(
    values: jax.Array,
    arrays: Arrays,
    *,
    entropy_share: float,
    off_policy_threshold: float | None,
    sampler_level: str | None,
    sampler_beyond: str,
    sampler_maximum: float | None,
    sampler_minimum: float | None,
) -> jax.Array:
    """`token_filter`, times trainer over sampler where the batch has sampler_logprobs."""
    weights = policy_links.sampler_weights(
        arrays,
        level=sampler_level,
        beyond=sampler_beyond,
        maximum=sampler_maximum,
        minimum=sampler_minimum,
    )
    counted = token_filter(
        values, arrays, entropy_share=entropy_share, off_policy_threshold=off_policy_threshold
    )
    return counted * weights


def sampler_gate(
    values: jax.Array,
    arrays: Arrays,
    *,
    correction: str | None,
    beyond: str,
    minimum: float,
    maximum: float,
) -> jax.Array:
    """Times the token's ratio of trainer to sampler, gated by its own or by the geometric mean of
    the response's; 1 if correction is None (OpenRLHF)."""
    if correction is None:
        return values
    shapes.check_choice("correction", correction, ("token", "sequence"))
    legal = ("drop", "truncate") if correction == "token" else ("drop",)
    shapes.check_choice("beyond", beyond, legal)
    both = kl.old_logprobs(arrays), arrays["sampler_logprobs"], arrays["mask"]
    if correction == "token":
        weight = losses.sampler_weight(
            *both, level="token", beyond=beyond, minimum=minimum, maximum=maximum
        )
    else:
        whole = losses.sequence_ratio(*both)[:, None]
        keep = (whole >= minimum) & (whole <= maximum)
        weight = jnp.where(keep, losses.sampler_weight(*both, level="token", maximum=None), 0.0)
    return values * jax.lax.stop_gradient(weight)


WEIGHTS: Mapping[str, Callable[..., jax.Array]] = {
    "": no_weight,
    "token_filter": token_filter,
    "token_filter_and_sampler": token_filter_and_sampler,
    "sampler_gate": sampler_gate,
    "token_weights": token_weights,
}


# --- terms beside the policy's ---
def kl_term(
    arrays: Arrays,
    reduce: Reduce,
    *,
    kl_weight: float | None,
    estimator: str = "k3",
    kl_cap: float | None = None,
    kl_corrected: bool = False,
    level: str = "token",
) -> Terms:
    """{"kl": kl_weight * KL to the reference}, times the ratio of `level` if kl_corrected; {} at
    weight 0."""
    if settings.is_off("kl_weight", kl_weight):
        return {}
    if kl_corrected:
        both = arrays["reference_logprobs"], arrays["mask"]
        old = kl.old_logprobs(arrays)
        per_token = losses.kl_loss_weighted(
            arrays["logprobs"], old, *both, estimator=estimator, level=level
        )
    else:
        per_token = kl.values(arrays, estimator=estimator, cap=kl_cap)
    return {"kl": reductions.scale(reduce(per_token, arrays), kl_weight or 0.0)}


def entropy_term(
    arrays: Arrays, reduce: Reduce, *, entropy_weight: float | None, entropy_share: float = 1.0
) -> Terms:
    """{"entropy": -entropy_weight * token mean of the entropy}, over its top share; {} at 0."""
    if settings.is_off("entropy_weight", entropy_weight):
        return {}
    keep = entropy_mask(arrays, entropy_share)
    bonus = losses.token_mean(losses.entropy_bonus(arrays["entropy"], keep), keep)
    return {"entropy": reductions.scale(bonus, entropy_weight or 0.0)}


TERMS: Mapping[str, Callable[..., Terms]] = {"kl": kl_term, "entropy": entropy_term}


# --- what a recipe of rollouts computes ---
def compute(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> Terms:
    """{term: Mean}."""
    if recipe.score == "answer and next slot":
        arrays = arrays.replace(mask=policy_links.with_next_slot(arrays["mask"]))
    link = settings.block(policy_links.LINKS, "link", recipe.link)
    weight = settings.block(WEIGHTS, "weight", recipe.weight)
    values = link(arrays, **settings.accepted(link, {"level": recipe.score, **options}))
    values = weight(values, arrays, **settings.accepted(weight, options))

    def reduce(x: jax.Array, arrays: Arrays) -> mean.Mean:
        return reductions.mean_of(x, arrays, recipe.reduction, options)

    term = reduce(values, arrays)
    if "weight" in options:
        term = reductions.scale(term, options["weight"])
    terms = {recipe.term: term}
    for name in recipe.terms:
        beside = settings.block(TERMS, "term", name)
        terms |= beside(arrays, reduce, **settings.accepted(beside, options))
    return terms
