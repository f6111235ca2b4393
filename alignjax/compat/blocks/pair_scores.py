"""What the answers of a pair are worth, [B]: scores and divergences.

Arrays as in `pairs`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays
from alignjax.compat.blocks import options as settings
from alignjax.core import mean, shapes
from alignjax.losses import divergences, inputs

if TYPE_CHECKING:
    from alignjax.compat.recipe import Recipe

SIDES = ("chosen", "rejected")
OTHER = {"chosen": "rejected", "rejected": "chosen"}


def pair_mask(arrays: Mapping[str, Any], like: jax.Array) -> Any:
    """[B]: which pairs count; all unless the arrays say otherwise."""
    return arrays["pair_mask"] if "pair_mask" in arrays else jnp.ones_like(like, dtype=bool)


def token_mask(arrays: Arrays, name: str) -> jax.Array:
    """[B, T] booleans: the mask of that name, in the pairs that count."""
    keep = jnp.asarray(arrays[name]) != 0
    return (
        keep & (jnp.asarray(arrays["pair_mask"]) != 0)[:, None] if "pair_mask" in arrays else keep
    )


# --- means over pairs, or over tokens in pairs, [B] or [B, T] ---
def averaged(values: jax.Array, keep: Any, arrays: Mapping[str, Any]) -> mean.Mean:
    """The mean of what is kept, each pair at its weight: the optional array pair_weight, [B]."""
    if "pair_weight" not in arrays:
        return mean.masked(values, keep)
    weight = inputs.as_float(arrays["pair_weight"])
    weight = weight[:, None] if values.ndim > 1 else weight
    return mean.weighted(values, jnp.where(jnp.asarray(keep) != 0, weight, 0.0))


def over_pairs(values: jax.Array, arrays: Mapping[str, Any]) -> mean.Mean:
    """The mean over the pairs that count, each at its weight."""
    return averaged(values, pair_mask(arrays, values), arrays)


def turned(arrays: Arrays) -> Arrays:
    """The arrays with the two answers in each other's place; a margin changes its sign."""

    def other(name: str) -> str:
        return "rejected".join(part.replace("rejected", "chosen") for part in name.split("chosen"))

    swapped = {name: arrays[other(name)] for name in arrays if other(name) != name}
    if "margin" in arrays:
        swapped["margin"] = -arrays["margin"]
    return arrays.replace(**swapped)


# --- scores: what an answer is worth, [B] ---
def total(arrays: Arrays, text: str, prefix: str = "", *, ld_alpha: float = 1.0) -> jax.Array:
    """Log-probability of an answer; tokens beyond the common length count ld_alpha (LD-DPO)."""
    logprobs, mask = arrays[f"{prefix}{text}_logprobs"], arrays[f"{text}_mask"]
    if ld_alpha == 1.0:
        return losses.score_sum(logprobs, mask)
    return losses.score_ld(logprobs, mask, arrays[f"{OTHER[text]}_mask"], alpha=ld_alpha)


def average(arrays: Arrays, text: str, prefix: str = "") -> jax.Array:
    """Log-probability of an answer, nats per token."""
    return losses.score_mean(arrays[f"{prefix}{text}_logprobs"], arrays[f"{text}_mask"])


def lengths(arrays: Arrays) -> list[jax.Array]:
    """[n_c, n_r]: tokens of the answers, at least 1."""
    return [inputs.count(jnp.asarray(arrays[f"{side}_mask"]) != 0) for side in SIDES]


# "sum/length" divides after the divergence, "mean" averages before it; "sum or ratio" takes
# log-ratios where the arrays hold a reference and log-probabilities where not (Tunix).
SCORES: Mapping[str, Callable[..., jax.Array]] = {
    "mean": average,
    "sum": total,
    "sum or ratio": total,
    "sum/length": total,
}
HEAD, TOKENS = "head", "tokens"  # scores of a reward model; log-probabilities token by token


def of_answer(recipe: "Recipe", arrays: Arrays, text: str, options: Mapping[str, Any]) -> jax.Array:
    """The score of an answer under the policy, less that under the reference if that is read."""
    score = settings.block(SCORES, "score", recipe.score)
    numbers = settings.accepted(score, options)
    value = score(arrays, text, **numbers)
    is_ratio = "reference" in recipe.reads
    if recipe.score == "sum or ratio":
        is_ratio = all(f"reference_{side}_logprobs" in arrays for side in SIDES)
    if not is_ratio:
        return value
    return value - jax.lax.stop_gradient(score(arrays, text, "reference_", **numbers))


def scores(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> list[jax.Array]:
    """[chosen, rejected], [B]: what enters the link."""
    if recipe.score == HEAD:
        return [arrays[f"{side}_scores"] for side in SIDES]
    f = divergence(recipe, options)
    values = [
        f(of_answer(recipe, arrays, side, options), **settings.accepted(f, options))
        for side in SIDES
    ]
    if recipe.score == "sum/length":
        return [x / n for x, n in zip(values, lengths(arrays), strict=True)]
    return values


# --- divergences: f' of an f-divergence, as a function of the score ---
def identity(x: jax.Array) -> jax.Array:
    """The score itself."""
    return x


def power(x: jax.Array, *, alpha: float) -> jax.Array:
    """(1 - exp(-alpha x)) / alpha, x at alpha = 0; any finite alpha (AlphaPO, TRL 0.28)."""
    return divergences.power(x, shapes.check_number("alpha", alpha))


def power_from_one(x: jax.Array, *, alpha: float) -> jax.Array:
    """`power` with 1 - alpha for alpha: f'(u) = (u^(alpha - 1) - 1) / (alpha - 1) (TRL 1.16)."""
    return divergences.power(x, 1.0 - shapes.check_number("alpha", alpha))


DIVERGENCES: Mapping[str, Callable[..., jax.Array]] = {
    "": identity,
    "alpha": losses.alpha_divergence,
    "forward_kl": losses.forward_kl_divergence,
    "js": losses.js_divergence,
    "power": power,
    "power_from_one": power_from_one,
    "reverse_kl": losses.reverse_kl_divergence,
}


def divergence(recipe: "Recipe", options: Mapping[str, Any]) -> Callable[..., jax.Array]:
    """The recipe's divergence, or the one that the option of that name chooses."""
    name = recipe.divergence
    if "divergence" in options:
        choices = {word.partition(":")[0]: word for word in recipe.divergences}
        shapes.check_choice("divergence", options["divergence"], choices)
        name = choices[options["divergence"]].rpartition(":")[2]
    return settings.block(DIVERGENCES, "divergence", name)
