"""Losses on pairs without a reference model, from token log-probabilities.

Arrays: chosen_logprobs, rejected_logprobs [B, T] in nats; chosen_mask, rejected_mask [B, T];
optional pair_mask [B]; gold_logprobs, gold_mask [B, T] for TPO and SLiC; chosen_sequence_mask
[B, T], 1 on prompt and answer, for ORPO where its NLL covers both. l: log-probabilities of answers
(sums over their tokens), m: their means per token.
"""

from collections.abc import Callable
from typing import Any

import jax

from alignjax import losses
from alignjax.compat import pairs
from alignjax.compat.recipe import Arrays, Terms
from alignjax.core import mean, shapes
from alignjax.losses import divergences


def weighted(term: mean.Mean, weight: float, name: str = "nll_weight") -> mean.Mean:
    """A Mean whose value is `weight` times that of `term`."""
    return mean.Mean(
        total=shapes.check_number(name, weight, minimum=0) * term.total, weight=term.weight
    )


def token_nll(arrays: Arrays, logprobs: str, mask: str) -> mean.Mean:
    """-log p, averaged over all tokens of `mask` in pairs that count."""
    keep = pairs.token_mask(arrays, mask)
    return mean.masked(losses.token_nll(arrays[logprobs], keep), keep)


def _with_nll(terms: Terms, arrays: Arrays, side: str, nll_weight: float) -> Terms:
    """`terms` and, unless its weight is 0, the NLL of that side's answers, a token mean."""
    if nll_weight:
        nll = token_nll(arrays, f"{side}_logprobs", f"{side}_mask")
        terms["nll"] = weighted(nll, nll_weight)
    return terms


def _scored(arrays: Arrays, per_token: bool) -> list[jax.Array]:
    return pairs.means(arrays) if per_token else pairs.sums(arrays)


def shaped(link: Callable[..., jax.Array], *, per_token: bool) -> Callable[..., Terms]:
    """`compute` of link(r_c, r_r) + nll_weight * NLL of the chosen answers' tokens.

    r = (1 - exp(-alpha s)) / alpha, AlphaPO's reward, and s at alpha = 0; s is m or l.
    """

    def compute(arrays: Arrays, *, alpha: float, nll_weight: float, **options: Any) -> Terms:
        shapes.check_number("alpha", alpha)
        rewards = [divergences.power(x, alpha) for x in _scored(arrays, per_token)]
        terms = pairs.reduced(link(*rewards, **options), arrays)
        return _with_nll(terms, arrays, "chosen", nll_weight)

    return compute


def with_gold(link: Callable[..., jax.Array], *, per_token: bool) -> Callable[..., Terms]:
    """`compute` of link(s_c, s_r) + nll_weight * NLL of the gold answers' tokens; s is m or l."""

    def compute(arrays: Arrays, *, nll_weight: float, **options: Any) -> Terms:
        terms = pairs.reduced(link(*_scored(arrays, per_token), **options), arrays)
        return _with_nll(terms, arrays, "gold", nll_weight)

    return compute


def per_pair(link: Callable[..., jax.Array], *, per_token: bool) -> Callable[..., Terms]:
    """`compute` of a loss link(s_c, s_r, **options) that holds all terms of a pair."""

    def compute(arrays: Arrays, **options: Any) -> Terms:
        return pairs.reduced(link(*_scored(arrays, per_token), **options), arrays)

    return compute


def tpo(arrays: Arrays, *, per_token: bool, **options: Any) -> Terms:
    """`compute` of `losses.tpo`."""
    score = losses.score_mean if per_token else losses.score_sum
    scored = [*_scored(arrays, per_token), score(arrays["gold_logprobs"], arrays["gold_mask"])]
    return pairs.reduced(losses.tpo(*scored, **options), arrays)


def slic(arrays: Arrays, *, target_margin: float, nll_weight: float) -> Terms:
    """`compute` of SLiC-HF: a hinge on l_c - l_r and the NLL of the gold answers, sums."""
    gold = losses.score_sum(arrays["gold_logprobs"], arrays["gold_mask"])
    ranking = losses.hinge(*pairs.sums(arrays), beta=1.0, target_margin=target_margin)
    return pairs.reduced(losses.mix([ranking, gold], [1.0, -nll_weight]), arrays)


def orpo(arrays: Arrays, *, ratio_weight: float) -> Terms:
    """`compute` of `losses.odds_ratio` with the NLL of prompts and chosen answers, a token mean."""
    ratio = pairs.reduced(losses.odds_ratio(*pairs.means(arrays)), arrays)["loss"]
    return {
        "odds_ratio": weighted(ratio, ratio_weight, "ratio_weight"),
        "nll": token_nll(arrays, "chosen_logprobs", "chosen_sequence_mask"),
    }
