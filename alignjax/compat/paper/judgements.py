"""Losses on pairs with ties, or with labels by raters of known accuracy; all are means over pairs.

The same models over the scores of a reward model, and over beta times log-ratios of a policy.
"""

from typing import Any

from alignjax.compat.recipe import Recipe


def _of_scores(link: str, formula: str, source: str, optional: str, **numbers: Any) -> Recipe:
    """A loss of d = s_c - s_r."""
    return Recipe(
        table="pairs",
        score="head",
        link=link,
        reduction="mean over pairs",
        reads=frozenset({"scores"}),
        optional=frozenset({optional}),
        defaults=numbers,
        formula=f"{formula}, d = s_c - s_r; mean over pairs",
        source=source,
    )


def _of_ratios(link: str, formula: str, source: str, optional: str, **numbers: Any) -> Recipe:
    """A loss of d = beta (a - b)."""
    return Recipe(
        table="pairs",
        score="sum",
        divergence="reverse_kl",
        link=link,
        reduction="mean over pairs",
        reads=frozenset({"reference"}),
        optional=frozenset({optional}),
        defaults={"beta": 0.1, **numbers},
        formula=f"{formula}, d = beta (a - b); mean over pairs",
        source=source,
    )


DAVIDSON = (
    "-(1-t) log p_win - t log p_tie, p_win : p_loss : p_tie = e^(d/2) : e^(-d/2) : tie_strength, "
    "t the array `ties`"
)
RAO_KUPPER = (
    "-(1-t) log sig(d - h) - t log(1 - sig(d - h) - sig(-d - h)), h = threshold, t the array `ties`"
)
RATER_NOISE = (
    "-log(c sig(d) + (1-c) sig(-d)), c the array `accuracies`, or `accuracy` for all labels"
)
RECIPES = {
    "davidson": _of_scores("davidson", DAVIDSON, "Davidson 1970", "ties", tie_strength=1.0),
    "rao_kupper": _of_scores(
        "rao_kupper", RAO_KUPPER, "Rao and Kupper 1967", "ties", threshold=0.5
    ),
    "rater_noise": _of_scores(
        "rater_noise", RATER_NOISE, "Patrini et al. 2017", "accuracies", accuracy=0.9
    ),
    "dpo_davidson": _of_ratios(
        "davidson", DAVIDSON, "Chen et al. 2024 (DPO-D)", "ties", tie_strength=1.0
    ),
    "dpo_rao_kupper": _of_ratios(
        "rao_kupper", RAO_KUPPER, "Chen et al. 2024 (DPO-RK)", "ties", threshold=0.5
    ),
    "dpo_rater_noise": _of_ratios(
        "rater_noise", RATER_NOISE, "Patrini et al. 2017, on log-ratios", "accuracies",
        accuracy=0.9,
    ),
}  # fmt: skip
