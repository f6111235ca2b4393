"""Losses on pairs: score o divergence o link o weight o reduction, and terms beside them.

Arrays: chosen_logprobs, rejected_logprobs, and with a reference reference_chosen_logprobs,
reference_rejected_logprobs, [B, T] in nats; chosen_mask, rejected_mask [B, T]; optional pair_mask
[B]; chosen_sum_p2, rejected_sum_p2 [B, T] for WPO; shift, a scalar in reward units, for bco_pair;
gold_logprobs, gold_mask [B, T] for TPO and SLiC; chosen_sequence_mask [B, T], 1 on prompt and
answer, for ORPO where its NLL covers both. Reward models: chosen_scores, rejected_scores [B], and
optional margin [B], in units of reward. Judgements: optional ties [B] in [0, 1], the probability
that a pair is one, and accuracies [B] of the labels' raters. Votes: optional pair_weight [B] >= 0,
a pair's weight in every mean, and preference [B] in [0, 1], the probability p that chosen is the
better one: the loss is p times that of the pair and 1 - p times that of the pair with its answers
swapped.
a, b: log-ratios of the two answers, sums over their n_c and n_r tokens; l: log-probabilities of
answers, m: their means per token; f: the divergence.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays, Terms
from alignjax.compat.blocks import options as settings
from alignjax.compat.blocks import pair_links, pair_scores
from alignjax.core import mean, shapes
from alignjax.losses import inputs

if TYPE_CHECKING:
    from alignjax.compat.recipe import Recipe


# --- weights of pairs, [B], without gradient ---
def wpo(per_pair: jax.Array, arrays: Arrays, *, wpo: bool) -> jax.Array:
    """Times the product of the WPO weights of the two answers, if asked."""
    return per_pair * wpo_weights(arrays) if wpo else per_pair


def wpo_at_most_1(
    per_pair: jax.Array, arrays: Arrays, *, wpo: bool, nll_weight: float
) -> jax.Array:
    """The same with weights cut at 1, as TRL 0.28 has them.

    Raises:
      ValueError: both are asked for: TRL 0.28 multiplies its NLL with the weights too.
    """
    if wpo and nll_weight:
        raise ValueError(
            f"nll_weight must be 0 with wpo, whose weights TRL 0.28 multiplies it with; got "
            f"{nll_weight}."
        )
    return per_pair * jnp.minimum(wpo_weights(arrays), 1.0) if wpo else per_pair


def wpo_weights(arrays: Arrays) -> jax.Array:
    """Product of the WPO weights of the two answers, [B]."""
    chosen, rejected = (
        losses.wpo_weight(
            arrays[f"{side}_logprobs"], arrays[f"{side}_sum_p2"], arrays[f"{side}_mask"]
        )
        for side in pair_scores.SIDES
    )
    return chosen * rejected


def no_weight(per_pair: jax.Array, arrays: Arrays) -> jax.Array:
    """All pairs alike."""
    return per_pair


WEIGHTS: Mapping[str, Callable[..., jax.Array]] = {
    "": no_weight,
    "wpo": wpo,
    "wpo_at_most_1": wpo_at_most_1,
}


# --- reductions ---
def over_pairs(per_pair: jax.Array, arrays: Arrays) -> mean.Mean:
    """The mean over pairs."""
    return pair_scores.over_pairs(per_pair, arrays)


def over_sorted_pairs(per_pair: jax.Array, arrays: Arrays) -> mean.Mean:
    """The mean over pairs of losses in sorted order, 0 for those that do not count."""
    weight = mean.masked(per_pair, pair_scores.pair_mask(arrays, per_pair)).weight
    return mean.Mean(total=jnp.sum(per_pair), weight=weight)


def over_chosen_tokens(per_token: jax.Array, arrays: Arrays) -> mean.Mean:
    """The mean over all chosen answers' tokens."""
    keep = pair_scores.token_mask(arrays, "chosen_mask")
    return pair_scores.averaged(per_token, keep, arrays)


REDUCTIONS: Mapping[str, Callable[..., mean.Mean]] = {
    "mean over pairs": over_pairs,
    "mean over sorted pairs": over_sorted_pairs,
    "mean over chosen tokens": over_chosen_tokens,
}


# --- terms beside the main one ---
def token_nll(arrays: Arrays, logprobs: str, mask: str, weight: float) -> mean.Mean:
    """weight -log p, averaged over all tokens of `mask` in pairs that count."""
    keep = pair_scores.token_mask(arrays, mask)
    nll = pair_scores.averaged(losses.token_nll(arrays[logprobs], keep), keep, arrays)
    weight = shapes.check_number("nll_weight", weight, minimum=0)
    return mean.Mean(total=weight * nll.total, weight=nll.weight)


def chosen_token_nll(arrays: Arrays, *, nll_weight: float) -> Terms:
    """NLL of the chosen answers, a mean over their tokens."""
    if settings.is_off("nll_weight", nll_weight):
        return {}
    return {"nll": token_nll(arrays, "chosen_logprobs", "chosen_mask", nll_weight)}


def gold_token_nll(arrays: Arrays, *, nll_weight: float) -> Terms:
    """NLL of the gold answers, a mean over their tokens."""
    if settings.is_off("nll_weight", nll_weight):
        return {}
    return {"nll": token_nll(arrays, "gold_logprobs", "gold_mask", nll_weight)}


def sequence_token_nll(arrays: Arrays) -> Terms:
    """NLL of prompts and chosen answers, a mean over their tokens."""
    return {"nll": token_nll(arrays, "chosen_logprobs", "chosen_sequence_mask", 1.0)}


def chosen_answer_nll(arrays: Arrays, *, nll_weight: float = 1.0) -> Terms:
    """NLL per token of the chosen answers, a mean over pairs."""
    if settings.is_off("nll_weight", nll_weight):
        return {}
    chosen = pair_scores.average(arrays, "chosen")
    return {"nll": pair_scores.over_pairs(-nll_weight * chosen, arrays)}


def center(arrays: Arrays, *, center_coefficient: float | None) -> Terms:
    """center_coefficient (s_c + s_r)^2, a mean over pairs, unless that is None."""
    if center_coefficient is None:
        return {}
    weight = shapes.check_number("center_coefficient", center_coefficient, minimum=0)
    penalty = losses.center_penalty(*(arrays[f"{side}_scores"] for side in pair_scores.SIDES))
    return {"center": pair_scores.over_pairs(weight * penalty, arrays)}


TERMS: Mapping[str, Callable[..., Terms]] = {
    "center": center,
    "chosen_answer_nll": chosen_answer_nll,
    "chosen_token_nll": chosen_token_nll,
    "gold_token_nll": gold_token_nll,
    "sequence_token_nll": sequence_token_nll,
}


# --- what a recipe of pairs computes ---
VOTES = ("preference", "pair_weight")


def compute(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> Terms:
    """{term: Mean}, of pairs with votes as of so many pairs one way and the other.

    Raises:
      ValueError: the data have votes and the loss sorts the batch, where a pair has none.
    """
    votes = [name for name in VOTES if name in arrays]
    if votes and recipe.coupled:
        raise ValueError(
            f"data for {recipe.name}, which sorts all pairs of a batch, must have no preference or "
            f"weight; got {' and '.join(votes)}. Take another loss, or leave the columns out."
        )
    if "preference" not in arrays:
        return _terms(recipe, arrays, options)
    share, weight = arrays["preference"], arrays.get("pair_weight", 1.0)
    both = (
        _terms(recipe, arrays.replace(pair_weight=weight * share), options),
        _terms(
            recipe, pair_scores.turned(arrays).replace(pair_weight=weight * (1 - share)), options
        ),
    )
    return mean.add(*both)


def _terms(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> Terms:
    weight = settings.block(WEIGHTS, "weight", recipe.weight)
    per_pair = pair_links.pair_losses(recipe, arrays, options)
    per_pair = weight(per_pair, arrays, **settings.accepted(weight, options))
    reduce = settings.block(REDUCTIONS, "reduction", recipe.reduction)
    terms = {recipe.term: reduce(per_pair, arrays)}
    for name in recipe.terms:
        term = settings.block(TERMS, "term", name)
        terms |= term(arrays, **settings.accepted(term, options))
    return terms


def rewards(
    recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """(chosen, rejected), [B]: beta times the score; log odds for ORPO; for imitation of the chosen
    answer, which has no reward, log-probabilities."""
    if recipe.score == pair_scores.TOKENS:
        values = [pair_scores.total(arrays, side) for side in pair_scores.SIDES]
    else:
        values = pair_scores.scores(recipe, arrays, options)
    if recipe.link in ("odds_ratio", "orpo"):
        values = [x - inputs.log1mexp(x) for x in values]
    beta = options.get("beta", 1.0)
    chosen, rejected = (jax.lax.stop_gradient(beta * inputs.as_float(x)) for x in values)
    return chosen, rejected
