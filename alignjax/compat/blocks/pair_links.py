"""Links of losses on pairs: from the scores of the two answers to the loss of a pair, [B].

Arrays as in `pairs`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays
from alignjax.compat.blocks import options as settings
from alignjax.compat.blocks import pair_scores
from alignjax.core import shapes
from alignjax.losses import inputs

if TYPE_CHECKING:
    from alignjax.compat.recipe import Recipe


# --- links: the loss of a pair, [B] ---
def exo_pair_never_0(
    chosen: jax.Array, rejected: jax.Array, *, beta: float, label_smoothing: float
) -> jax.Array:
    """EXO whose label smoothing 0 means 1e-3 (TRL 0.28)."""
    return losses.exo_pair(chosen, rejected, beta=beta, label_smoothing=label_smoothing or 1e-3)


def odds_ratio(
    chosen: jax.Array, rejected: jax.Array, *, ratio_weight: float, label_smoothing: float = 0.0
) -> jax.Array:
    """ratio_weight -log sig(log odds(s_c) - log odds(s_r)), smoothed."""
    weight = shapes.check_number("ratio_weight", ratio_weight, minimum=0)
    e = shapes.check_number("label_smoothing", label_smoothing, minimum=0, below=0.5)
    loss = losses.odds_ratio(chosen, rejected)
    if not settings.is_off("label_smoothing", e):
        loss = (1 - e) * loss + e * losses.odds_ratio(rejected, chosen)
    return weight * loss


LINKS: Mapping[str, Callable[..., jax.Array]] = {
    "apo_down": losses.apo_down,
    "apo_zero": losses.apo_zero,
    "bco_pair_unshifted": losses.bco_pair,
    "cpo": losses.cpo,
    "discopop": losses.discopop,
    "dpop": losses.dpop,
    "exo_pair": losses.exo_pair,
    "exo_pair_never_0": exo_pair_never_0,
    "hinge": losses.hinge,
    "logistic": losses.dpo,
    "logistic_margin": losses.simpo,
    "nca_pair": losses.nca_pair,
    "odds_ratio": odds_ratio,
    "orpo": losses.orpo,
    "sppo_hard": losses.sppo_hard,
    "squared": losses.ipo,
    "token_nll": losses.token_nll,
    "unbiased_logistic": losses.robust_dpo,
}


def bco_pair(chosen: jax.Array, rejected: jax.Array, arrays: Arrays, *, beta: float) -> jax.Array:
    """`losses.bco_pair` with the array `shift`."""
    return losses.bco_pair(chosen, rejected, beta=beta, shift=arrays["shift"])


def bradley_terry(
    chosen: jax.Array, rejected: jax.Array, arrays: Arrays, *, label_smoothing: float = 0.0
) -> jax.Array:
    """`losses.bradley_terry` with the array `margin` if there is one."""
    margin = arrays.get("margin", 0.0)
    return losses.bradley_terry(chosen, rejected, margin=margin, label_smoothing=label_smoothing)


def r_dpo(
    chosen: jax.Array, rejected: jax.Array, arrays: Arrays, *, beta: float, alpha: float
) -> jax.Array:
    """`losses.r_dpo` with the answers' lengths."""
    return losses.r_dpo(chosen, rejected, *pair_scores.lengths(arrays), beta=beta, alpha=alpha)


def aot(
    chosen: jax.Array,
    rejected: jax.Array,
    arrays: Arrays,
    *,
    beta: float,
    label_smoothing: float,
    ld_alpha: float,
) -> jax.Array:
    """`losses.aot`: sorted margins of the policy against those of the reference."""
    chosen, rejected = (pair_scores.total(arrays, x, ld_alpha=ld_alpha) for x in pair_scores.SIDES)
    base, other = (
        jax.lax.stop_gradient(pair_scores.total(arrays, x, "reference_", ld_alpha=ld_alpha))
        for x in pair_scores.SIDES
    )
    keep = pair_scores.pair_mask(arrays, chosen)
    return losses.aot(
        chosen, rejected, base, other, keep, beta=beta, label_smoothing=label_smoothing
    )


def aot_unpaired(
    chosen: jax.Array, rejected: jax.Array, arrays: Arrays, *, beta: float, label_smoothing: float
) -> jax.Array:
    """`losses.aot_unpaired`: sorted a against sorted b."""
    keep = pair_scores.pair_mask(arrays, chosen)
    return losses.aot_unpaired(chosen, rejected, keep, beta=beta, label_smoothing=label_smoothing)


def davidson(
    chosen: jax.Array,
    rejected: jax.Array,
    arrays: Arrays,
    *,
    tie_strength: float,
    beta: float = 1.0,
) -> jax.Array:
    """`losses.davidson` with the array `ties`; without it no pair is one."""
    scaled = _scaled(chosen, rejected, beta)
    ties = arrays.get("ties", jnp.zeros_like(scaled[0]))
    return losses.davidson(*scaled, ties, tie_strength=tie_strength)


def rao_kupper(
    chosen: jax.Array,
    rejected: jax.Array,
    arrays: Arrays,
    *,
    threshold: float,
    beta: float = 1.0,
) -> jax.Array:
    """`losses.rao_kupper` with the array `ties`; without it no pair is one."""
    scaled = _scaled(chosen, rejected, beta)
    ties = arrays.get("ties", jnp.zeros_like(scaled[0]))
    return losses.rao_kupper(*scaled, ties, threshold=threshold)


def rater_noise(
    chosen: jax.Array, rejected: jax.Array, arrays: Arrays, *, accuracy: float, beta: float = 1.0
) -> jax.Array:
    """`losses.rater_noise` with the array `accuracies`, or one accuracy for all labels."""
    right = shapes.check_number("accuracy", accuracy, above=0.5, maximum=1)
    scaled = _scaled(chosen, rejected, beta)
    each = arrays.get("accuracies", jnp.full_like(scaled[0], right))
    return losses.rater_noise(*scaled, each)


def _scaled(chosen: jax.Array, rejected: jax.Array, beta: float) -> tuple[jax.Array, jax.Array]:
    """Scores in reward units."""
    shapes.check_number("beta", beta, above=0)
    return beta * inputs.as_float(chosen), beta * inputs.as_float(rejected)


LINKS_ON_ARRAYS: Mapping[str, Callable[..., jax.Array]] = {
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "bco_pair": bco_pair,
    "bradley_terry": bradley_terry,
    "davidson": davidson,
    "r_dpo": r_dpo,
    "rao_kupper": rao_kupper,
    "rater_noise": rater_noise,
}


def slic(
    chosen: jax.Array,
    rejected: jax.Array,
    gold: jax.Array,
    *,
    target_margin: float,
    nll_weight: float,
) -> jax.Array:
    """SLiC-HF: a hinge on l_c - l_r and the NLL of the gold answer."""
    ranking = losses.hinge(chosen, rejected, beta=1.0, target_margin=target_margin)
    return losses.mix([ranking, gold], [1.0, -nll_weight])


LINKS_WITH_GOLD: Mapping[str, Callable[..., jax.Array]] = {"slic": slic, "tpo": losses.tpo}


def pair_losses(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> jax.Array:
    """The loss of each pair, [B]; of each chosen token, [B, T], where the score is "tokens"."""
    if recipe.score == pair_scores.TOKENS:
        keep = pair_scores.token_mask(arrays, "chosen_mask")
        return LINKS[recipe.link](arrays["chosen_logprobs"], keep)
    values = pair_scores.scores(recipe, arrays, options)
    if recipe.link in LINKS_ON_ARRAYS:
        link = LINKS_ON_ARRAYS[recipe.link]
        return link(*values, arrays, **settings.accepted(link, options))
    if recipe.link in LINKS_WITH_GOLD:
        link = LINKS_WITH_GOLD[recipe.link]
        if settings.is_off("nll_weight", options["nll_weight"]):
            gold = jnp.zeros_like(values[0])
        else:
            gold = pair_scores.of_answer(recipe, arrays, "gold", options)
        return link(*values, gold, **settings.accepted(link, options))
    link = settings.block(LINKS, "link", recipe.link)
    return link(*values, **settings.accepted(link, options))
