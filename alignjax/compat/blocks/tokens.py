"""Losses on tokens, on scores of answers and on next-token distributions: loss o reduction.

Arrays, by what a recipe needs: token_logprobs, logsumexp, mean_logits [B, T] with mask [B, T];
chosen_scores, rejected_scores [B], optional margin and pair_mask [B]; scores, ranks [B, N] with
optional mask [B, N]; scores, targets [B]; logits, labels [B], or [B, T] with mask [B, T];
student_logits, teacher_logits [B, T, V] with mask [B, T]. Log-probabilities are in nats, scores in
units of reward.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import pairs
from alignjax.compat.recipe import Arrays, Terms
from alignjax.core import mean, shapes
from alignjax.losses import inputs


def per_token(loss: Callable[..., jax.Array], *names: str) -> Callable[..., Terms]:
    """`compute` of loss(*arrays, mask, **options), averaged over all counted tokens."""

    def compute(arrays: Arrays, **options: Any) -> Terms:
        mask = arrays["mask"]
        return {"loss": mean.masked(loss(*[arrays[n] for n in names], mask, **options), mask)}

    return compute


def per_row(loss: Callable[..., jax.Array], *names: str) -> Callable[..., Terms]:
    """`compute` of loss(*arrays, **options), averaged over rows."""
    return lambda arrays, **options: {"loss": mean.of(loss(*[arrays[n] for n in names], **options))}


def per_ranking(loss: Callable[..., jax.Array]) -> Callable[..., Terms]:
    """`compute` of loss(scores, ranks, mask), averaged over prompts with at least two items."""

    def compute(arrays: Arrays) -> Terms:
        scores, ranks = arrays["scores"], arrays["ranks"]
        mask = arrays["mask"] if "mask" in arrays else jnp.ones_like(scores, dtype=bool)
        compared = jnp.sum(jnp.asarray(mask) != 0, axis=-1) >= 2
        return {"loss": mean.masked(loss(scores, ranks, mask), compared)}

    return compute


def bradley_terry(arrays: Arrays, *, center_coefficient: float | None, **options: Any) -> Terms:
    """`compute` of `losses.bradley_terry`, plus `losses.center_penalty` unless that is None."""
    scores = arrays["chosen_scores"], arrays["rejected_scores"]
    if "margin" in arrays:
        options["margin"] = arrays["margin"]
    loss = losses.bradley_terry(*scores, **options)
    keep = pairs.pair_mask(arrays, loss)
    terms = {"loss": mean.masked(loss, keep)}
    if center_coefficient is not None:
        weight = shapes.check_number("center_coefficient", center_coefficient, minimum=0)
        terms["center"] = mean.masked(weight * losses.center_penalty(*scores), keep)
    return terms


def distillation(divergence: Callable[..., jax.Array]) -> Callable[..., Terms]:
    """`compute` of a divergence of softmax(logits / temperature), averaged over counted tokens."""

    def compute(arrays: Arrays, *, temperature: float, **options: Any) -> Terms:
        shapes.check_number("temperature", temperature, above=0)
        both = (inputs.as_float(arrays[f"{side}_logits"]) for side in ("student", "teacher"))
        student, teacher = (jax.nn.log_softmax(z / temperature, axis=-1) for z in both)
        mask = arrays["mask"]
        return {"loss": mean.masked(divergence(student, teacher, mask, **options), mask)}

    return compute


def two_class_steps(arrays: Arrays) -> Terms:
    """`compute` of `losses.process_reward` on logits [B, T, 2] of (wrong, right), labels 0 or 1."""
    shapes.check("logits", arrays["logits"], "B T 2")
    logits, mask = inputs.as_float(arrays["logits"]), arrays["mask"]
    right = logits[..., 1] - logits[..., 0]
    return {"loss": mean.masked(losses.process_reward(right, arrays["labels"], mask), mask)}
