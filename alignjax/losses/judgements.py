"""Losses on judgements that are no plain win: ties, and raters of known accuracy; one per pair.

Scores are in reward units: those of a reward model, or beta times a log-ratio for a policy. With
ties and accuracies left out of them (tie chance 0, accuracy 1) all are Bradley-Terry's, but for the
constant that a chance of ties costs every win.
"""

import math

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs


def _gap(chosen: jax.Array, rejected: jax.Array, ties: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(s_w - s_l, ties), [B] in fp32."""
    chosen, rejected, ties = inputs.arrays(
        "B", chosen_scores=chosen, rejected_scores=rejected, ties=ties
    )
    return chosen - rejected, jax.lax.stop_gradient(ties)


def davidson(
    chosen_scores: jax.Array, rejected_scores: jax.Array, ties: jax.Array, *, tie_strength: float
) -> jax.Array:
    """Negative log-likelihood of wins and ties under Davidson's model, [B].

    With d = s_w - s_l and nu = tie_strength, chances stand as e^(d/2) : e^(-d/2) : nu for win, loss
    and tie: equal answers tie with probability nu / (2 + nu). A tie pulls the scores together; it
    is not half a win and half a loss.

    Args:
      chosen_scores, rejected_scores: [B] float, reward units.
      ties: [B] in [0, 1], the probability that the pair is a tie: the loss is the mean over both.
      tie_strength: nu > 0.

    Raises:
      ValueError: shapes differ, tie_strength <= 0 or not finite.

    Reference: Davidson (1970); with DPO: Chen et al. (2024), arXiv 2409.17431.
    """
    log_nu = math.log(shapes.check_number("tie_strength", tie_strength, above=0))
    gap, tied = _gap(chosen_scores, rejected_scores, ties)
    half = 0.5 * gap
    total = jnp.logaddexp(jnp.logaddexp(half, -half), log_nu)
    return total - (1 - tied) * half - tied * log_nu


def rao_kupper(
    chosen_scores: jax.Array, rejected_scores: jax.Array, ties: jax.Array, *, threshold: float
) -> jax.Array:
    """Negative log-likelihood of wins and ties under Rao and Kupper's model, [B].

    A difference below the threshold t is not noticed: P(win) = sigmoid(d - t), P(loss) =
    sigmoid(-d - t), d = s_w - s_l, and the rest ties.

    Args:
      chosen_scores, rejected_scores, ties: as in `davidson`.
      threshold: t > 0, reward units.

    Raises:
      ValueError: shapes differ, threshold <= 0 or not finite.

    Reference: Rao and Kupper (1967); with DPO: Chen et al. (2024), arXiv 2409.17431.
    """
    t = shapes.check_number("threshold", threshold, above=0)
    gap, tied = _gap(chosen_scores, rejected_scores, ties)
    win, loss = jax.nn.log_sigmoid(gap - t), jax.nn.log_sigmoid(-gap - t)
    # P(tie) = (e^2t - 1) P(win) P(loss)
    return -win - tied * (loss + 2 * t + math.log(-math.expm1(-2 * t)))


def rater_noise(
    chosen_scores: jax.Array, rejected_scores: jax.Array, accuracies: jax.Array
) -> jax.Array:
    """Negative log-likelihood of labels by raters of known accuracy, [B].

    -log(a sigmoid(d) + (1 - a) sigmoid(-d)), d = s_w - s_l: the label's chance after a rater's
    error (forward correction). Its optimum is that of clean labels; a label of accuracy 1/2 has no
    gradient, one of 0 counts turned round.

    Args:
      chosen_scores, rejected_scores: [B] float, reward units.
      accuracies: [B] in [0, 1], how often the label's rater is right.

    Raises:
      ValueError: shapes differ.

    Reference: Patrini et al. (2017), arXiv 1609.03683.
    """
    chosen, rejected, right = inputs.arrays(
        "B", chosen_scores=chosen_scores, rejected_scores=rejected_scores, accuracies=accuracies
    )
    right = jax.lax.stop_gradient(right)
    win, loss = (jax.nn.log_sigmoid(x) for x in (chosen - rejected, rejected - chosen))
    inside = (right > 0) & (right < 1)
    safe = jnp.where(inside, right, 0.5)
    mixed = jnp.logaddexp(jnp.log(safe) + win, jnp.log1p(-safe) + loss)
    return -jnp.where(inside, mixed, jnp.where(right > 0.5, win, loss))


def span_reward(logits: jax.Array, spans: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of the labels of spans, [B, S]; 0 where a row has no span of that number.

    -y log sigmoid(z) - (1 - y) log sigmoid(-z), z the mean logit over the span's tokens: a span
    counts once, however long it is.

    Args:
      logits: [B, T] float, that a token is part of a right span.
      spans: [B, T] int, the number 1 .. S of the span that a token belongs to; 0 for none.
      labels: [B, S] float in [0, 1]: 1 right, 0 wrong.

    Raises:
      ValueError: shapes differ.

    Reference: Wu et al. (2023, fine-grained rewards), arXiv 2306.01693.
    """
    sizes = shapes.check("spans", spans, "B T")
    shapes.check("logits", logits, "B T", sizes)
    shapes.check("labels", labels, "B S", sizes)
    logits, labels = inputs.as_float(logits), inputs.as_float(labels)
    numbers = jnp.arange(1, labels.shape[1] + 1)[None, None, :]
    inside = spans[:, :, None] == numbers  # [B, T, S]
    length = inputs.count(inside, axis=1)
    mean = jnp.sum(jnp.where(inside, logits[:, :, None], 0.0), axis=1) / length
    losses = -labels * jax.nn.log_sigmoid(mean) - (1 - labels) * jax.nn.log_sigmoid(-mean)
    return jnp.where(jnp.any(inside, axis=1), losses, 0.0)
