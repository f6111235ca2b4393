"""Losses for reward models, one per comparison."""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs, links


def bradley_terry(
    chosen_scores: jax.Array,
    rejected_scores: jax.Array,
    *,
    margin: jax.Array | float = 0.0,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Negative log-likelihood of comparisons under Bradley-Terry, [B]: l(s_w - s_l - margin).

    l(z) = -(1 - e) log sigmoid(z) - e log sigmoid(-z), e = label_smoothing. Unchanged when a
    constant is added to all scores.

    Args:
      chosen_scores: [B] float, reward units.
      rejected_scores: [B] float.
      margin: a number or [B] float, reward units: by how much the labeller preferred.
      label_smoothing: e in [0, 0.5).

    Returns:
      [B] fp32 losses; log 2 where the scores agree and margin is 0.

    Raises:
      ValueError: shapes differ, margin not finite, label_smoothing outside [0, 0.5).

    Reference: Bradley and Terry (1952); Ouyang et al. (2022), equation 1; margin: Touvron et al.
    (2023, Llama 2), equation 2.
    """
    chosen, rejected = inputs.arrays(
        "B", chosen_scores=chosen_scores, rejected_scores=rejected_scores
    )
    if isinstance(margin, (int, float)):
        shapes.check_number("margin", margin)
    elif jnp.ndim(margin) > 0:
        shapes.check("margin", margin, "B", {"B": chosen.shape[0]})
    gap = chosen - rejected - inputs.as_float(margin)
    return links.logistic(gap, label_smoothing=label_smoothing)


def center_penalty(chosen_scores: jax.Array, rejected_scores: jax.Array) -> jax.Array:
    """(s_w + s_l)^2, [B]: add it with a small coefficient (0.01) to keep scores centred at 0.

    Bradley-Terry leaves the offset free; this fixes it.

    Raises:
      ValueError: the arguments are not both [B].

    Reference: Eisenstein et al. (2023), arXiv 2312.09244.
    """
    chosen, rejected = inputs.arrays(
        "B", chosen_scores=chosen_scores, rejected_scores=rejected_scores
    )
    return jnp.square(chosen + rejected)


def plackett_luce(scores: jax.Array, ranks: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Negative log-likelihood of rankings under Plackett-Luce, [B], with ties and partial rankings.

    sum over ranked i of  logsumexp(s_j : rank_j >= rank_i) - s_i : each item is chosen from those
    that are not yet placed. Tied items (equal rank) share one denominator (Breslow's form). With
    two items it is Bradley-Terry.

    Args:
      scores: [B, N] float, reward units, N items per prompt.
      ranks: [B, N] float, smaller is better; infinity for an item that was shown and lost to all
        ranked ones, its place among the rest unknown (a partial ranking).
      mask: [B, N], 1 where the item takes part.

    Returns:
      [B] fp32 losses; 0 for rows with fewer than two items or none ranked.

    Raises:
      ValueError: shapes differ; mask holds other numbers than 0 and 1.

    Reference: Plackett (1975); Luce (1959); ties: Breslow (1974); top-k: Xia et al. (2019).
    """
    keep, scores, ranks = inputs.masked("B N", mask, scores=scores, ranks=ranks)
    low = jnp.finfo(scores.dtype).min
    # remaining[b, i, j]: item j is still unplaced when item i is chosen.
    remaining = keep[:, None, :] & (ranks[:, None, :] >= ranks[:, :, None])
    remaining = remaining | jnp.eye(scores.shape[1], dtype=bool)[None]
    others = jnp.where(remaining, jnp.broadcast_to(scores[:, None, :], remaining.shape), low)
    denominators = jax.nn.logsumexp(others, axis=-1)
    counted = keep & jnp.isfinite(ranks)
    return jnp.sum(jnp.where(counted, denominators - scores, 0.0), axis=-1)


def all_pairs(scores: jax.Array, ranks: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Bradley-Terry over all pairs of a ranking, averaged per prompt, [B].

    1 / n sum over pairs with rank_i < rank_j of -log sigmoid(s_i - s_j), n the number of such pairs
    (K choose 2 without ties). Tied pairs are left out.

    Args:
      scores: [B, N] float. ranks: [B, N] float, smaller is better.
      mask: [B, N], 1 where the item takes part; None counts all.

    Returns:
      [B] fp32 losses; 0 for rows without an ordered pair.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Ouyang et al. (2022), equation 1.
    """
    keep, scores, ranks = inputs.masked("B N", mask, scores=scores, ranks=ranks)
    better = (ranks[:, :, None] < ranks[:, None, :]) & keep[:, :, None] & keep[:, None, :]
    losses = links.logistic(scores[:, :, None] - scores[:, None, :])
    return jnp.sum(jnp.where(better, losses, 0.0), axis=(1, 2)) / inputs.count(better, (1, 2))


def score_regression(scores: jax.Array, targets: jax.Array) -> jax.Array:
    """(score - target)^2, [B]: for ratings on a known scale. No gradient into the targets.

    Raises:
      ValueError: the arguments are not both [B].
    """
    scores, targets = inputs.arrays("B", scores=scores, targets=targets)
    return jnp.square(scores - jax.lax.stop_gradient(targets))


def _binary(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-y log sigmoid(z) - (1 - y) log sigmoid(-z), y in [0, 1]."""
    return -labels * jax.nn.log_sigmoid(logits) - (1 - labels) * jax.nn.log_sigmoid(-logits)


def process_reward(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Cross-entropy of step labels, [B, T], 0 away from the steps' ends.

    -y log sigmoid(z) - (1 - y) log sigmoid(-z) at the tokens that end a step. Two-class logits give
    z as their difference.

    Args:
      logits: [B, T] float, that the step is right.
      labels: [B, T] float in [0, 1]: 1 right, 0 wrong, or the share of right roll-outs from there.
      mask: [B, T], 1 at the separators of labelled steps.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Lightman et al. (2023); soft labels: Wang et al. (2024,
    Math-Shepherd).
    """
    keep, logits, labels = inputs.masked("B T", mask, logits=logits, labels=labels)
    return jnp.where(keep, _binary(logits, labels), 0.0)


def multilabel(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Cross-entropy of each category's label, [B, C]; 0 where a label is missing.

    -y log sigmoid(z) - (1 - y) log sigmoid(-z): categories are questions of their own, of which a
    row may answer some alone. A missing label has no gradient, whatever stands in its place.

    Args:
      logits: [B, C] float, of C categories.
      labels: [B, C] float in [0, 1]: 1 where the category holds, 0 where not, or a share of votes.
      mask: [B, C], 1 where there is a label.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: one logistic loss a label (binary relevance), Zhang and Zhou (2014); labels that are
    missing in part: Markov et al. (2023), arXiv 2208.03274, section 3.
    """
    keep, logits, labels = inputs.masked("B C", mask, logits=logits, labels=labels)
    return jnp.where(keep, _binary(logits, jax.lax.stop_gradient(labels)), 0.0)


def outcome_reward(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of right or wrong answers, [B]: -y log sigmoid(z) - (1 - y) log sigmoid(-z).

    Args:
      logits: [B] float, at the response's last token. labels: [B] float in [0, 1].

    Raises:
      ValueError: the arguments are not both [B].

    Reference: Cobbe et al. (2021).
    """
    logits, labels = inputs.arrays("B", logits=logits, labels=labels)
    return _binary(logits, labels)
