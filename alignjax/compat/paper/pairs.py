"""Losses on pairs with a reference, as their papers state them; all are means over pairs."""

from alignjax import losses
from alignjax.compat import pairs
from alignjax.compat.recipe import Arrays, Recipe, Terms

SCORE = {"ld_alpha": 1.0, "wpo": False}
DIVERGENCE = {**SCORE, "divergence": "reverse_kl", "alpha": 0.5}


def _r_dpo(arrays: Arrays, *, beta: float, alpha: float) -> Terms:
    ratios, lengths = pairs.log_ratios(arrays), pairs.lengths(arrays)
    return pairs.reduced(losses.r_dpo(*ratios, *lengths, beta=beta, alpha=alpha), arrays)


RECIPES = {
    "dpo": Recipe(
        compute=pairs.referenced(losses.dpo),
        formula="-(1-e) log sig(beta (f(a) - f(b))) - e log sig(-beta (f(a) - f(b))), "
        "e = label_smoothing; mean over pairs",
        source="Rafailov et al. 2023, eq. 7; Mitchell 2023 (e > 0)",
        defaults={**DIVERGENCE, "beta": 0.1, "label_smoothing": 0.0},
    ),
    "r_dpo": Recipe(
        compute=_r_dpo,
        formula="-log sig(beta (a - b) + alpha (n_c - n_r)); mean over pairs",
        source="Park et al. 2024",
        defaults={"beta": 0.1, "alpha": 0.01},
    ),
}
