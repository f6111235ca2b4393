"""Losses on pairs without a reference model, one per pair.

Arguments are log-probabilities of responses, [B], in nats (`score_sum`) or nats per token
(`score_mean`), as its name states.
"""

import jax

from alignjax.core import shapes
from alignjax.losses import divergences, inputs, links


def _pair(beta: float, **named: jax.Array) -> list[jax.Array]:
    shapes.check_number("beta", beta, above=0)
    return inputs.arrays("B", **named)


def odds_ratio(chosen_mean_logprobs: jax.Array, rejected_mean_logprobs: jax.Array) -> jax.Array:
    """Odds-ratio term of ORPO, [B]: l(log odds(w) - log odds(l)), l(z) = -log sigmoid(z).

    odds = P / (1 - P) with P = exp(mean log-probability per token); log(1 - P) is computed stably.

    Raises:
      ValueError: the arguments are not both [B].

    Reference: Hong et al. (2024, ORPO), equation 7.
    """
    chosen, rejected = inputs.arrays(
        "B",
        chosen_mean_logprobs=chosen_mean_logprobs,
        rejected_mean_logprobs=rejected_mean_logprobs,
    )
    return links.logistic(chosen - rejected - (inputs.log1mexp(chosen) - inputs.log1mexp(rejected)))


def orpo(
    chosen_mean_logprobs: jax.Array, rejected_mean_logprobs: jax.Array, *, ratio_weight: float = 0.1
) -> jax.Array:
    """Odds-ratio preference optimisation, [B]: NLL(w) + ratio_weight * `odds_ratio`.

    NLL is the chosen response's mean over its tokens; to take it over prompt and response, or as a
    token mean of the batch, add `token_nll` to `odds_ratio` as Means instead.

    Args:
      chosen_mean_logprobs: [B] float <= 0, nats per token.
      rejected_mean_logprobs: [B] float <= 0, nats per token.
      ratio_weight: lambda >= 0.

    Raises:
      ValueError: shapes differ, ratio_weight < 0.

    Reference: Hong et al. (2024, ORPO), equation 6.
    """
    shapes.check_number("ratio_weight", ratio_weight, minimum=0)
    ratio = odds_ratio(chosen_mean_logprobs, rejected_mean_logprobs)
    return ratio_weight * ratio - inputs.as_float(chosen_mean_logprobs)


def simpo(
    chosen_mean_logprobs: jax.Array,
    rejected_mean_logprobs: jax.Array,
    *,
    beta: float,
    target_margin: float,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Simple preference optimisation, [B]: l(beta (m_w - m_l) - target_margin).

    Args:
      chosen_mean_logprobs, rejected_mean_logprobs: [B] float, nats per token.
      beta: > 0, of the order of 2.
      target_margin: gamma >= 0, reward units (the authors state it as a share of beta).
      label_smoothing: in [0, 0.5).

    Raises:
      ValueError: shapes differ, beta <= 0, target_margin < 0, label_smoothing outside [0, 0.5).

    Reference: Meng et al. (2024, SimPO), equation 6.
    """
    shapes.check_number("target_margin", target_margin, minimum=0)
    chosen, rejected = _pair(
        beta,
        chosen_mean_logprobs=chosen_mean_logprobs,
        rejected_mean_logprobs=rejected_mean_logprobs,
    )
    z = beta * (chosen - rejected) - target_margin
    return links.logistic(z, label_smoothing=label_smoothing)


def alphapo(
    chosen_mean_logprobs: jax.Array,
    rejected_mean_logprobs: jax.Array,
    *,
    beta: float,
    target_margin: float,
    alpha: float,
) -> jax.Array:
    """AlphaPO, [B]: `simpo` with the reward (1 - P^-alpha) / alpha in place of log P.

    P = exp(mean log-probability per token); alpha = 0 is SimPO.

    Args:
      as `simpo`; alpha: any finite number (0.25 in the paper).

    Raises:
      ValueError: as `simpo`; alpha not finite.

    Reference: Gupta et al. (2025, AlphaPO), arXiv 2501.03884.
    """
    shapes.check_number("alpha", alpha)
    chosen, rejected = _pair(
        beta,
        chosen_mean_logprobs=chosen_mean_logprobs,
        rejected_mean_logprobs=rejected_mean_logprobs,
    )
    return simpo(
        divergences.power(chosen, alpha),
        divergences.power(rejected, alpha),
        beta=beta,
        target_margin=target_margin,
    )


def cpo(
    chosen_logprobs: jax.Array,
    rejected_logprobs: jax.Array,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    nll_weight: float = 1.0,
) -> jax.Array:
    """Contrastive preference optimisation, [B]: l(beta (l_w - l_l)) - nll_weight * l_w.

    Args:
      chosen_logprobs, rejected_logprobs: [B] float, nats, summed over tokens.
      beta: > 0.
      label_smoothing: in [0, 0.5).
      nll_weight: >= 0; 0 to add the chosen answer's NLL with another denominator.

    Raises:
      ValueError: shapes differ, beta <= 0, label_smoothing outside [0, 0.5), nll_weight < 0.

    Reference: Xu et al. (2024, CPO), arXiv 2401.08417.
    """
    shapes.check_number("nll_weight", nll_weight, minimum=0)
    chosen, rejected = _pair(
        beta, chosen_logprobs=chosen_logprobs, rejected_logprobs=rejected_logprobs
    )
    preference = links.logistic(beta * (chosen - rejected), label_smoothing=label_smoothing)
    return preference - nll_weight * chosen


def tpo(
    chosen_logprobs: jax.Array,
    rejected_logprobs: jax.Array,
    gold_logprobs: jax.Array,
    *,
    beta: float,
    nll_weight: float = 1.0,
    target_margin: float = 0.0,
) -> jax.Array:
    """Triple preference optimisation, [B]: l(beta (s_w - s_l) - target_margin) - nll_weight s_gold.

    With sums of log-probabilities and target_margin 0 it is TPO, with means per token and
    target_margin > 0 TPO-L.

    Args:
      chosen_logprobs, rejected_logprobs, gold_logprobs: [B] float, nats or nats per token.
      beta: > 0.
      nll_weight: alpha >= 0, of the gold response.
      target_margin: gamma >= 0, reward units.

    Raises:
      ValueError: shapes differ, beta <= 0, nll_weight or target_margin < 0.

    Reference: Saeidi et al. (2024, TPO), arXiv 2405.16681.
    """
    shapes.check_number("nll_weight", nll_weight, minimum=0)
    shapes.check_number("target_margin", target_margin, minimum=0)
    chosen, rejected, gold = _pair(
        beta,
        chosen_logprobs=chosen_logprobs,
        rejected_logprobs=rejected_logprobs,
        gold_logprobs=gold_logprobs,
    )
    return links.logistic(beta * (chosen - rejected) - target_margin) - nll_weight * gold
