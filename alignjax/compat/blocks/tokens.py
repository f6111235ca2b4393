"""Losses on tokens of documents, demonstrations and labelled steps: link o reduction.

Arrays, by what a recipe reads: token_logprobs, logsumexp, mean_logits [B, T]; logits, labels
[B, T], or logits [B, T, 2] of (wrong, right); mask [B, T], 0 in every slot of a row of padding.
Log-probabilities are in nats.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax

from alignjax import losses
from alignjax.compat.arrays import Arrays, Terms
from alignjax.compat.blocks import options as settings
from alignjax.compat.blocks import reductions
from alignjax.core import shapes
from alignjax.losses import inputs

if TYPE_CHECKING:
    from alignjax.compat.recipe import Recipe


def token_nll(arrays: Arrays) -> jax.Array:
    """-log p."""
    return losses.token_nll(arrays["token_logprobs"], arrays["mask"])


def dft(arrays: Arrays) -> jax.Array:
    """-stop_gradient(p) log p."""
    return losses.dft(arrays["token_logprobs"], arrays["mask"])


def smoothed_nll(arrays: Arrays, *, label_smoothing: float) -> jax.Array:
    """`losses.smoothed_nll`; at label_smoothing 0 the plain NLL, from log-probabilities alone."""
    if settings.is_off("label_smoothing", label_smoothing):
        return token_nll(arrays)
    statistics = (arrays[name] for name in ("token_logprobs", "logsumexp", "mean_logits", "mask"))
    return losses.smoothed_nll(*statistics, label_smoothing=label_smoothing)


def z_loss(arrays: Arrays, *, coefficient: float) -> jax.Array:
    """coefficient logsumexp(z)^2."""
    return losses.z_loss(arrays["logsumexp"], arrays["mask"], coefficient=coefficient)


def process_reward(arrays: Arrays) -> jax.Array:
    """Cross-entropy of a step's label under its logit."""
    return losses.process_reward(arrays["logits"], arrays["labels"], arrays["mask"])


def two_class_process_reward(arrays: Arrays) -> jax.Array:
    """The same of logits [B, T, 2] of (wrong, right), labels 0 or 1."""
    shapes.check("logits", arrays["logits"], "B T 2")
    logits = inputs.as_float(arrays["logits"])
    right = logits[..., 1] - logits[..., 0]
    return losses.process_reward(right, arrays["labels"], arrays["mask"])


LINKS: Mapping[str, Callable[..., jax.Array]] = {
    "dft": dft,
    "process_reward": process_reward,
    "smoothed_nll": smoothed_nll,
    "token_nll": token_nll,
    "two_class_process_reward": two_class_process_reward,
    "z_loss": z_loss,
}


def compute(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> Terms:
    """{term: Mean}."""
    link = settings.block(LINKS, "link", recipe.link)
    per_token = link(arrays, **settings.accepted(link, options))
    return {recipe.term: reductions.mean_of(per_token, arrays, recipe.reduction, options)}
