"""Losses on pairs with a reference, as their papers state them; all are means over pairs.

beta is that of the paper's experiments, or 0.1 where they search over it or name none. LD-DPO's
score, f-DPO's divergence and WPO's weight are options of every loss that they compose with; at
their defaults the formula is the named paper's.
"""

from typing import Any

from alignjax.compat.recipe import Recipe

SCORE = {"ld_alpha": 1.0, "wpo": False}
DIVERGENCE = {**SCORE, "divergence": "reverse_kl", "alpha": 0.5}
CHOICES = ("reverse_kl", "forward_kl", "js", "alpha")
PAIRS = "mean over pairs"


def _on_scores(
    link: str, formula: str, source: str, *, score: str = "sum", **numbers: Any
) -> Recipe:
    """A loss of f(a) and f(b)."""
    return Recipe(
        table="pairs",
        score=score,
        divergence="reverse_kl",
        divergences=CHOICES,
        link=link,
        weight="wpo",
        reduction=PAIRS,
        defaults={**DIVERGENCE, **numbers},
        reads=frozenset({"reference", "sum_p2"}),
        formula=f"{formula}; mean over pairs",
        source=source,
    )


def _on_ratios(link: str, formula: str, source: str, *reads: str, **numbers: float) -> Recipe:
    """A loss of a and b themselves."""
    return Recipe(
        table="pairs",
        score="sum",
        divergence="reverse_kl",
        link=link,
        weight="wpo",
        reduction=PAIRS,
        defaults={**SCORE, **numbers},
        reads=frozenset({"reference", "sum_p2", *reads}),
        formula=f"{formula}; mean over pairs",
        source=source,
    )


def _sorted(link: str, formula: str, source: str) -> Recipe:
    """A loss of scores that are sorted over the batch."""
    return Recipe(
        table="pairs",
        score="sum",
        divergence="reverse_kl",
        link=link,
        reduction="mean over sorted pairs",
        defaults={"beta": 0.1, "label_smoothing": 0.0, "ld_alpha": 1.0},
        reads=frozenset({"reference"}),
        coupled=True,
        formula=f"{formula}; mean over pairs",
        source=source,
    )


RECIPES = {
    "dpo": _on_scores(
        "logistic",
        "-(1-e) log sig(beta (f(a) - f(b))) - e log sig(-beta (f(a) - f(b))), e = label_smoothing",
        "Rafailov et al. 2023, eq. 7; Mitchell 2023 (e > 0)",
        beta=0.1,
        label_smoothing=0.0,
    ),
    "dpo_norm": _on_scores(
        "logistic",
        "-log sig(beta (f(a)/n_c - f(b)/n_r))",
        "Lambert et al. 2024, section 5.1",
        score="sum/length",
        beta=5.0,
    ),
    "robust_dpo": _on_scores(
        "unbiased_logistic",
        "(-(1-e) log sig(z) + e log sig(-z)) / (1-2e), z = beta (f(a) - f(b)), e = flip_rate",
        "Chowdhury et al. 2024, section 3.1",
        beta=0.01,
        flip_rate=0.1,
    ),
    "hinge": _on_scores(
        "hinge",
        "max(0, target_margin - beta (f(a) - f(b)))",
        "Liu et al. 2023 (RSO), hinge-norm",
        beta=0.05,
        target_margin=1.0,
    ),
    "ipo": _on_scores(
        "squared",
        "(f(a) - f(b) - 1/(2 beta))^2",
        "Azar et al. 2023, eq. 17 (log-ratios summed over tokens, as in its theorem)",
        beta=0.1,
    ),
    "exo_pair": _on_scores(
        "exo_pair",
        "KL((sig(z), sig(-z)) || (1-e, e)), z = beta (f(a) - f(b)), e = label_smoothing",
        "Ji et al. 2024, eq. 16",
        beta=0.1,
        label_smoothing=1e-3,
    ),
    "discopop": _on_scores(
        "discopop",
        "-(1-m) log sig(z) + m exp(-z), z = beta (f(a) - f(b)), m = sig(z / temperature)",
        "Lu et al. 2024, eq. 5",
        beta=0.05,
        temperature=0.05,
    ),
    "nca_pair": _on_ratios(
        "nca_pair",
        "-log sig(beta a) - log sig(-beta a) / 2 - log sig(-beta b) / 2",
        "Chen et al. 2024, section 4.1 (K = 2)",
        beta=0.01,
    ),
    "bco_pair": _on_ratios(
        "bco_pair",
        "-log sig(beta a - d) - log sig(-(beta b - d)), d the array `shift`: half the sum of the "
        "running means of beta a and beta b",
        "Jung et al. 2024, section 4",
        "shift",
        beta=0.01,
    ),
    "sppo_hard": _on_ratios(
        "sppo_hard",
        "(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2",
        "Wu et al. 2024, eq. 4.7 (win rates 1 and 0, eta = 1/beta)",
        beta=1e-3,
    ),
    "apo_zero": _on_ratios(
        "apo_zero",
        "1 - sig(beta a) + sig(beta b)",
        "D'Oosterlinck et al. 2024, eq. 7",
        beta=0.1,
    ),
    "apo_down": _on_ratios(
        "apo_down",
        "sig(beta a) + 1 - sig(beta (a - b))",
        "D'Oosterlinck et al. 2024, eq. 8",
        beta=0.1,
    ),
    "dpop": _on_ratios(
        "dpop",
        "-log sig(beta (a - b - penalty max(0, -a)))",
        "Pal et al. 2024",
        beta=0.3,
        penalty=50.0,
    ),
    "r_dpo": Recipe(
        table="pairs",
        score="sum",
        divergence="reverse_kl",
        link="r_dpo",
        reduction=PAIRS,
        defaults={"beta": 0.1, "alpha": 0.01},
        reads=frozenset({"reference"}),
        formula="-log sig(beta (a - b) + alpha (n_c - n_r)); mean over pairs",
        source="Park et al. 2024",
    ),
    "aot": _sorted(
        "aot",
        "cDPO of sort(l_c - l_r) - sort(reference's l_c - l_r)",
        "Melnyk et al. 2024 (paired)",
    ),
    "aot_unpaired": _sorted(
        "aot_unpaired", "cDPO of sort(a) - sort(b)", "Melnyk et al. 2024 (unpaired)"
    ),
}
