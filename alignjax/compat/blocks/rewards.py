"""Losses on scores of single answers and of rankings: link o reduction.

Arrays: scores, targets [B], or logits, labels [B], with optional answer_mask [B]; of rankings
scores, ranks [B, N] with optional mask [B, N]. Scores are in units of reward.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays, Terms
from alignjax.compat.blocks import options as settings
from alignjax.core import mean

if TYPE_CHECKING:
    from alignjax.compat.recipe import Recipe

# The loss of an answer, [B], and the arrays that it is of.
SCORED: Mapping[str, tuple[Callable[..., jax.Array], tuple[str, str]]] = {
    "cross_entropy": (losses.outcome_reward, ("logits", "labels")),
    "squared": (losses.score_regression, ("scores", "targets")),
}
# The loss of a prompt, [B].
RANKINGS: Mapping[str, Callable[..., jax.Array]] = {
    "all_pairs": losses.all_pairs,
    "plackett_luce": losses.plackett_luce,
}


def compute_scored(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> Terms:
    """{term: Mean}, the mean over answers."""
    link, names = SCORED[recipe.link]
    rows = [jnp.asarray(arrays[name]) for name in names]
    if "answer_mask" not in arrays:
        return {recipe.term: mean.of(link(*rows))}
    keep = jnp.asarray(arrays["answer_mask"]) != 0
    rows = [jnp.where(keep, x, jnp.zeros_like(x)) for x in rows]
    return {recipe.term: mean.masked(link(*rows), keep)}


def compute_rankings(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> Terms:
    """{term: Mean}, the mean over prompts with at least two answers."""
    link = settings.block(RANKINGS, "link", recipe.link)
    scores, ranks = arrays["scores"], arrays["ranks"]
    mask = arrays["mask"] if "mask" in arrays else jnp.ones_like(scores, dtype=bool)
    compared = jnp.sum(jnp.asarray(mask) != 0, axis=-1) >= 2
    return {recipe.term: mean.masked(link(scores, ranks, mask), compared)}
