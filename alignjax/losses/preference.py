"""Losses on pairs with a reference model: DPO and its family, one per pair.

Arguments are log-ratios log pi(y|x) / ref(y|x) in nats, summed over the response's tokens (or token
means: the length-normalised variants). A loss is a visible composition,

    score (sum, mean, LD)  o  divergence (f_* functions)  o  link (logistic, hinge ...)  o  mean

so that `dpo(js_divergence(a), js_divergence(b), beta=0.1)` is JS-DPO, `dpo` of token means is
length-normalised DPO, and a new loss is `link(beta * margin(a, b))`.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs, links


def margin(chosen_logratio: jax.Array, rejected_logratio: jax.Array) -> jax.Array:
    """chosen_logratio - rejected_logratio in fp32, [B], in nats: the margin h of DPO.

    Raises:
      ValueError: the arguments are not both [B].
    """
    chosen, rejected = inputs.arrays(
        "B", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio
    )
    return chosen - rejected


def _beta(beta: float) -> float:
    return shapes.check_number("beta", beta, above=0)


def dpo(
    chosen_logratio: jax.Array,
    rejected_logratio: jax.Array,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Direct preference optimisation, [B]: -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h).

    h = chosen_logratio - rejected_logratio; the population optimum of e = 0 is
    ref * exp(r / beta) / Z. e > 0 is cDPO: it bounds the margin at log((1 - e) / e) / beta.

    Args:
      chosen_logratio: [B] float, nats: log pi(y_w|x) - log ref(y_w|x), a sum over tokens.
      rejected_logratio: [B] float, nats, of y_l.
      beta: > 0, reward units per nat: weight of the KL penalty in the objective that is solved.
      label_smoothing: e in [0, 0.5), the assumed share of flipped labels.

    Returns:
      [B] fp32 losses; log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta <= 0, label_smoothing outside [0, 0.5), or not finite.

    Reference: Rafailov et al. (2023), equation 7; cDPO: Mitchell (2023).
    """
    return links.logistic(
        _beta(beta) * margin(chosen_logratio, rejected_logratio), label_smoothing=label_smoothing
    )


def robust_dpo(
    chosen_logratio: jax.Array, rejected_logratio: jax.Array, *, beta: float, flip_rate: float
) -> jax.Array:
    """Robust DPO, [B]: [(1 - e) l(beta h) - e l(-beta h)] / (1 - 2 e), l(z) = -log sigmoid(z).

    Unbiased for the loss on clean labels when labels are flipped with probability e = flip_rate.

    Args:
      chosen_logratio, rejected_logratio: [B] float, nats.
      beta: > 0.
      flip_rate: e in [0, 0.5); 0 is DPO.

    Returns:
      [B] fp32 losses, possibly negative.

    Raises:
      ValueError: shapes differ, beta <= 0, flip_rate outside [0, 0.5), or not finite.

    Reference: Chowdhury et al. (2024, rDPO), arXiv 2403.00409.
    """
    return links.unbiased_logistic(
        _beta(beta) * margin(chosen_logratio, rejected_logratio), flip_rate=flip_rate
    )


def ipo(chosen_logratio: jax.Array, rejected_logratio: jax.Array, *, beta: float) -> jax.Array:
    """Identity preference optimisation, [B]: (h - 1 / (2 beta))^2.

    The theorem is for log-ratios summed over tokens; language-model implementations mostly pass
    token means (`sequence_mean`), on the authors' advice. Both are this function.

    Args:
      chosen_logratio, rejected_logratio: [B] float, nats.
      beta: > 0, the paper's tau.

    Returns:
      [B] fp32 losses; 1 / (4 beta^2) where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta <= 0 or not finite.

    Reference: Azar et al. (2023), equation 17.
    """
    return links.squared(margin(chosen_logratio, rejected_logratio), target=0.5 / _beta(beta))


def hinge(
    chosen_logratio: jax.Array,
    rejected_logratio: jax.Array,
    *,
    beta: float,
    target_margin: float = 1.0,
) -> jax.Array:
    """Hinge loss on the margin, [B]: max(0, target_margin - beta h).

    On log-ratios it is the normalised hinge of RSO; on plain log-probabilities with beta = 1 and
    target_margin = d it is the ranking term of SLiC-HF.

    Args:
      chosen_logratio, rejected_logratio: [B] float, nats.
      beta: > 0.
      target_margin: > 0.

    Returns:
      [B] fp32 losses; target_margin where policy and reference agree.

    Raises:
      ValueError: shapes differ, beta or target_margin <= 0 or not finite.

    Reference: Liu et al. (2023, RSO), arXiv 2309.06657; Zhao et al. (2023, SLiC-HF).
    """
    return links.hinge_at(
        _beta(beta) * margin(chosen_logratio, rejected_logratio), target_margin=target_margin
    )


def implicit_reward(logratio: jax.Array, *, beta: float) -> jax.Array:
    """beta * logratio, [B], without gradient: the reward that the policy implies, up to f(x).

    Args:
      logratio: [B] float, nats.
      beta: > 0.

    Raises:
      ValueError: not [B], beta <= 0 or not finite.

    Reference: Rafailov et al. (2023), equation 5.
    """
    (logratio,) = inputs.arrays("B", logratio=logratio)
    return jax.lax.stop_gradient(_beta(beta) * logratio)


def preference_accuracy(chosen_rewards: jax.Array, rejected_rewards: jax.Array) -> jax.Array:
    """[B]: 1 where the chosen answer has the higher reward, 1/2 on a tie, else 0; no gradient.

    Raises:
      ValueError: the arguments are not both [B].
    """
    chosen, rejected = inputs.arrays(
        "B", chosen_rewards=chosen_rewards, rejected_rewards=rejected_rewards
    )
    return jax.lax.stop_gradient(0.5 * (jnp.sign(chosen - rejected) + 1.0))
