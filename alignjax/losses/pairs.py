"""More losses on pairs with a reference model, one per pair; arguments as in preference.py.

a, b: chosen and rejected log-ratio, [B], nats; h = a - b.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs, links
from alignjax.losses.preference import margin


def _scaled(chosen: jax.Array, rejected: jax.Array, beta: float) -> list[jax.Array]:
    """[beta a, beta b] in fp32, checked."""
    shapes.check_number("beta", beta, above=0)
    both = inputs.arrays("B", chosen_logratio=chosen, rejected_logratio=rejected)
    return [beta * x for x in both]


def exo_pair(
    chosen_logratio: jax.Array,
    rejected_logratio: jax.Array,
    *,
    beta: float,
    label_smoothing: float = 1e-3,
) -> jax.Array:
    """Efficient exact optimisation, [B]: KL(policy's preference; smoothed label), z = beta h.

    sig(z) (log sig(z) - log(1 - e)) + sig(-z) (log sig(-z) - log e): the reverse of DPO's KL.

    Raises:
      ValueError: shapes differ, beta <= 0, label_smoothing outside (0, 0.5): at 0 it is infinite.

    Reference: Ji et al. (2024, EXO), arXiv 2402.00856 (K = 2).
    """
    e = shapes.check_number("label_smoothing", label_smoothing, above=0, below=0.5)
    shapes.check_number("beta", beta, above=0)
    z = beta * margin(chosen_logratio, rejected_logratio)
    win = jax.nn.sigmoid(z) * (jax.nn.log_sigmoid(z) - jnp.log(1.0 - e))
    return win + jax.nn.sigmoid(-z) * (jax.nn.log_sigmoid(-z) - jnp.log(e))


def nca_pair(chosen_logratio: jax.Array, rejected_logratio: jax.Array, *, beta: float) -> jax.Array:
    """Noise-contrastive alignment, [B]: l(beta a) + l(-beta a) / 2 + l(-beta b) / 2.

    l(z) = -log sigmoid(z). It holds up the chosen answer's own likelihood.

    Raises:
      ValueError: shapes differ, beta <= 0.

    Reference: Chen et al. (2024, NCA), arXiv 2402.05369 (K = 2, hard labels).
    """
    a, b = _scaled(chosen_logratio, rejected_logratio, beta)
    return links.logistic(a) + 0.5 * links.logistic(-a) + 0.5 * links.logistic(-b)


def bco_pair(
    chosen_logratio: jax.Array,
    rejected_logratio: jax.Array,
    *,
    beta: float,
    shift: jax.Array | float = 0.0,
) -> jax.Array:
    """Binary classifier on pairs, [B]: l(beta a - shift) + l(-(beta b - shift)).

    shift is delta of the paper, a scalar: half the sum of the mean rewards beta a and beta b
    (`running_mean` of each); no gradient flows into it.

    Raises:
      ValueError: shapes differ, shift is not a scalar, beta <= 0.

    Reference: Jung et al. (2024, BCO), arXiv 2404.04656.
    """
    a, b = _scaled(chosen_logratio, rejected_logratio, beta)
    shapes.check("shift", shift, "")
    delta = jax.lax.stop_gradient(inputs.as_float(shift))
    return links.logistic(a - delta) + links.logistic(delta - b)


def sppo_hard(
    chosen_logratio: jax.Array, rejected_logratio: jax.Array, *, beta: float
) -> jax.Array:
    """Self-play preference optimisation, hard labels, [B]: (a - 1/(2 beta))^2 + (b + 1/(2 beta))^2.

    Raises:
      ValueError: shapes differ, beta <= 0.

    Reference: Wu et al. (2024, SPPO), arXiv 2405.00675 (eta = 1 / beta, win rates 1, 0).
    """
    _scaled(chosen_logratio, rejected_logratio, beta)
    a, b = inputs.arrays("B", chosen_logratio=chosen_logratio, rejected_logratio=rejected_logratio)
    return links.squared(a, target=0.5 / beta) + links.squared(b, target=-0.5 / beta)


def apo_zero(chosen_logratio: jax.Array, rejected_logratio: jax.Array, *, beta: float) -> jax.Array:
    """Anchored preference optimisation, zero, [B]: 1 - sig(beta a) + sig(beta b).

    Raises the chosen answer and lowers the rejected one, each against the reference: for a policy
    that is worse than the chosen answers.

    Raises:
      ValueError: shapes differ, beta <= 0.

    Reference: D'Oosterlinck et al. (2024, APO), arXiv 2408.06266.
    """
    a, b = _scaled(chosen_logratio, rejected_logratio, beta)
    return jax.nn.sigmoid(-a) + jax.nn.sigmoid(b)


def apo_down(chosen_logratio: jax.Array, rejected_logratio: jax.Array, *, beta: float) -> jax.Array:
    """Anchored preference optimisation, down, [B]: sig(beta a) + 1 - sig(beta (a - b)).

    Lowers both answers and the rejected one more: for a policy better than the chosen answers.

    Raises:
      ValueError: shapes differ, beta <= 0.

    Reference: D'Oosterlinck et al. (2024, APO), arXiv 2408.06266.
    """
    a, b = _scaled(chosen_logratio, rejected_logratio, beta)
    return jax.nn.sigmoid(a) + jax.nn.sigmoid(b - a)


def discopop(
    chosen_logratio: jax.Array,
    rejected_logratio: jax.Array,
    *,
    beta: float,
    temperature: float = 0.05,
) -> jax.Array:
    """Discovered preference optimisation, [B]: (1 - m) l(z) + m exp(-z), m = sig(z / temperature).

    z = beta h, l(z) = -log sigmoid(z): logistic for negative margins, exponential for positive
    ones. m exp(-z) is computed as one exponential, so that no margin overflows.

    Raises:
      ValueError: shapes differ, beta <= 0, temperature outside (0, 1] (above 1 it is unbounded).

    Reference: Lu et al. (2024, DiscoPOP), arXiv 2406.08414 (LRML).
    """
    shapes.check_number("beta", beta, above=0)
    shapes.check_number("temperature", temperature, above=0, maximum=1)
    z = beta * margin(chosen_logratio, rejected_logratio)
    sharp = z / temperature
    return jax.nn.sigmoid(-sharp) * links.logistic(z) + jnp.exp(jax.nn.log_sigmoid(sharp) - z)


def dpop(
    chosen_logratio: jax.Array, rejected_logratio: jax.Array, *, beta: float, penalty: float = 50.0
) -> jax.Array:
    """DPO-positive, [B]: l(beta (h - penalty max(0, -a))): a chosen answer may not lose likelihood.

    Raises:
      ValueError: shapes differ, beta <= 0, penalty < 0.

    Reference: Pal et al. (2024, Smaug), arXiv 2402.13228.
    """
    shapes.check_number("penalty", penalty, minimum=0)
    a, b = _scaled(chosen_logratio, rejected_logratio, beta)
    return links.logistic(a - b - penalty * jnp.maximum(0.0, -a))


def r_dpo(
    chosen_logratio: jax.Array,
    rejected_logratio: jax.Array,
    chosen_lengths: jax.Array,
    rejected_lengths: jax.Array,
    *,
    beta: float,
    alpha: float,
) -> jax.Array:
    """Length-regularised DPO, [B]: l(beta h + alpha (|y_w| - |y_l|)).

    Plus: then the optimum is that of the reward r - alpha |y|, and longer answers are pushed less.

    Args:
      chosen_logratio, rejected_logratio: [B] float, nats.
      chosen_lengths, rejected_lengths: [B] numbers, tokens.
      beta: > 0.
      alpha: >= 0, reward units per token.

    Raises:
      ValueError: shapes differ, beta <= 0, alpha < 0.

    Reference: Park et al. (2024, R-DPO), arXiv 2403.19159.
    """
    shapes.check_number("alpha", alpha, minimum=0)
    a, b = _scaled(chosen_logratio, rejected_logratio, beta)
    long, short = inputs.arrays(
        "B", chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths
    )
    shapes.check("chosen_lengths", long, "B", {"B": a.shape[0]})
    return links.logistic(a - b + alpha * (long - short))


def mix(losses: Sequence[jax.Array], weights: Sequence[float]) -> jax.Array:
    """Sum of weighted losses of one shape, e.g. [B] (MPO: a preference, a quality, an NLL term).

    Terms with different denominators (per pair, per token) are not mixed here but added as Means.

    Raises:
      ValueError: no losses, numbers of losses and weights or shapes differ, a weight not finite.

    Reference: Wang et al. (2024, MPO), arXiv 2411.10442.
    """
    if not losses or len(losses) != len(weights):
        raise ValueError(
            f"weights must hold one number for each loss; got {len(weights)} for {len(losses)}."
        )
    if len({jnp.shape(loss) for loss in losses}) > 1:
        raise ValueError(f"losses must have one shape; got {[jnp.shape(x) for x in losses]}.")
    terms = [
        shapes.check_number(f"weights[{i}]", weight) * inputs.as_float(loss)
        for i, (loss, weight) in enumerate(zip(losses, weights, strict=True))
    ]
    return sum(terms[1:], terms[0])


def soft_update(reference: Any, params: Any, *, mix: float) -> Any:
    """The reference moved towards the policy, leaf by leaf: (1 - mix) reference + mix params.

    TR-DPO: mix 0.5 to 0.6 every some hundred steps, or mix 1 (hard). Keeps the reference's dtype.

    Raises:
      ValueError: mix outside [0, 1].

    Reference: Gorbatovski et al. (2024, TR-DPO), arXiv 2404.09656.
    """
    shapes.check_number("mix", mix, minimum=0, maximum=1)
    return jax.tree.map(
        lambda r, p: ((1 - mix) * inputs.as_float(r) + mix * inputs.as_float(p)).astype(r.dtype),
        reference,
        params,
    )
