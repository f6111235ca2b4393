"""Losses on pairs with a reference, as their papers state them; all are means over pairs.

beta is that of the paper's experiments, or 0.1 where they search over it or name none. LD-DPO's
score, f-DPO's divergence and WPO's weight are options of every loss that they compose with; at
their defaults the formula is the named paper's.
"""

from collections.abc import Callable
from typing import Any

from alignjax import losses
from alignjax.compat import pairs
from alignjax.compat.recipe import Arrays, Recipe, Terms

SCORE = {"ld_alpha": 1.0, "wpo": False}
DIVERGENCE = {**SCORE, "divergence": "reverse_kl", "alpha": 0.5}


def _on_scores(
    link: Callable[..., Any],
    formula: str,
    source: str,
    *,
    per_token: bool = False,
    **options: float,
) -> Recipe:
    """A loss of f(a) and f(b)."""
    return Recipe(
        compute=pairs.referenced(link, per_token=per_token),
        formula=f"{formula}; mean over pairs",
        source=source,
        defaults={**DIVERGENCE, **options},
    )


def _on_ratios(
    link: Callable[..., Any], formula: str, source: str, *extra: str, **options: float
) -> Recipe:
    """A loss of a and b themselves, and of the arrays named in `extra`."""
    return Recipe(
        compute=pairs.on_ratios(link, *extra),
        formula=f"{formula}; mean over pairs",
        source=source,
        defaults={**SCORE, **options},
    )


def _r_dpo(arrays: Arrays, *, beta: float, alpha: float) -> Terms:
    ratios, lengths = pairs.log_ratios(arrays), pairs.lengths(arrays)
    return pairs.reduced(losses.r_dpo(*ratios, *lengths, beta=beta, alpha=alpha), arrays)


RECIPES = {
    "dpo": _on_scores(
        losses.dpo,
        "-(1-e) log sig(beta (f(a) - f(b))) - e log sig(-beta (f(a) - f(b))), e = label_smoothing",
        "Rafailov et al. 2023, eq. 7; Mitchell 2023 (e > 0)",
        beta=0.1,
        label_smoothing=0.0,
    ),
    "dpo_norm": _on_scores(
        losses.dpo,
        "-log sig(beta (f(a)/n_c - f(b)/n_r))",
        "Lambert et al. 2024, section 5.1",
        per_token=True,
        beta=5.0,
    ),
    "robust_dpo": _on_scores(
        losses.robust_dpo,
        "(-(1-e) log sig(z) + e log sig(-z)) / (1-2e), z = beta (f(a) - f(b)), e = flip_rate",
        "Chowdhury et al. 2024, section 3.1",
        beta=0.01,
        flip_rate=0.1,
    ),
    "hinge": _on_scores(
        losses.hinge,
        "max(0, target_margin - beta (f(a) - f(b)))",
        "Liu et al. 2023 (RSO), hinge-norm",
        beta=0.05,
        target_margin=1.0,
    ),
    "ipo": _on_scores(
        losses.ipo,
        "(f(a) - f(b) - 1/(2 beta))^2",
        "Azar et al. 2023, eq. 17 (log-ratios summed over tokens, as in its theorem)",
        beta=0.1,
    ),
    "exo_pair": _on_scores(
        losses.exo_pair,
        "KL((sig(z), sig(-z)) || (1-e, e)), z = beta (f(a) - f(b)), e = label_smoothing",
        "Ji et al. 2024, eq. 16",
        beta=0.1,
        label_smoothing=1e-3,
    ),
    "discopop": _on_scores(
        losses.discopop,
        "-(1-m) log sig(z) + m exp(-z), z = beta (f(a) - f(b)), m = sig(z / temperature)",
        "Lu et al. 2024, eq. 5",
        beta=0.05,
        temperature=0.05,
    ),
    "nca_pair": _on_ratios(
        losses.nca_pair,
        "-log sig(beta a) - log sig(-beta a) / 2 - log sig(-beta b) / 2",
        "Chen et al. 2024, section 4.1 (K = 2)",
        beta=0.01,
    ),
    "bco_pair": _on_ratios(
        losses.bco_pair,
        "-log sig(beta a - d) - log sig(-(beta b - d)), d the array `shift`: half the sum of the "
        "running means of beta a and beta b",
        "Jung et al. 2024, section 4",
        "shift",
        beta=0.01,
    ),
    "sppo_hard": _on_ratios(
        losses.sppo_hard,
        "(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2",
        "Wu et al. 2024, eq. 4.7 (win rates 1 and 0, eta = 1/beta)",
        beta=1e-3,
    ),
    "apo_zero": _on_ratios(
        losses.apo_zero,
        "1 - sig(beta a) + sig(beta b)",
        "D'Oosterlinck et al. 2024, eq. 7",
        beta=0.1,
    ),
    "apo_down": _on_ratios(
        losses.apo_down,
        "sig(beta a) + 1 - sig(beta (a - b))",
        "D'Oosterlinck et al. 2024, eq. 8",
        beta=0.1,
    ),
    "dpop": _on_ratios(
        losses.dpop,
        "-log sig(beta (a - b - penalty max(0, -a)))",
        "Pal et al. 2024",
        beta=0.3,
        penalty=50.0,
    ),
    "r_dpo": Recipe(
        compute=_r_dpo,
        formula="-log sig(beta (a - b) + alpha (n_c - n_r)); mean over pairs",
        source="Park et al. 2024",
        defaults={"beta": 0.1, "alpha": 0.01},
    ),
    "aot": Recipe(
        compute=pairs.aot,
        formula="cDPO of sort(l_c - l_r) - sort(reference's l_c - l_r); mean over pairs",
        source="Melnyk et al. 2024 (paired)",
        defaults={"beta": 0.1, "label_smoothing": 0.0, "ld_alpha": 1.0},
    ),
    "aot_unpaired": Recipe(
        compute=pairs.aot_unpaired,
        formula="cDPO of sort(a) - sort(b); mean over pairs",
        source="Melnyk et al. 2024 (unpaired)",
        defaults={"beta": 0.1, "label_smoothing": 0.0, "ld_alpha": 1.0},
    ),
}
